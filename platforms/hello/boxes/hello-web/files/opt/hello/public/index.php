<?php
declare(strict_types=1);

require __DIR__ . '/../guestbook.php';
require __DIR__ . '/../page.php';

const AUTHOR_MAX = 60;
const MESSAGE_MAX = 500;

$path = parse_url($_SERVER['REQUEST_URI'] ?? '/', PHP_URL_PATH) ?: '/';
$method = $_SERVER['REQUEST_METHOD'] ?? 'GET';
$machine = (string) gethostname();

header('X-Machine: ' . $machine);
header('Cache-Control: no-store');
header("Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'");
header('X-Content-Type-Options: nosniff');

try {
    match (true) {
        $path === '/healthz' => healthz(),
        $path === '/' && $method === 'POST' => sign($machine),
        $path === '/' && in_array($method, ['GET', 'HEAD'], true) => show($machine),
        $path === '/' => plain(405, 'method not allowed'),
        default => plain(404, 'not found'),
    };
} catch (mysqli_sql_exception $gone) {
    error_log('database: ' . $gone->getMessage());
    http_response_code(503);
    header('Retry-After: 2');
    $path === '/healthz' ? plain(503, 'database: not reachable') : waiting_page($machine, environment());
}

function healthz(): void
{
    GuestBook::open()->count();
    plain(200, 'ok');
}

function show(string $machine): void
{
    $book = GuestBook::open();
    guestbook_page($machine, environment(), $book->count(), $book->latest(50));
}

function sign(string $machine): void
{
    if (!is_from_this_page()) {
        plain(403, 'this form is sent from this site only');
        return;
    }
    $author = field('author', AUTHOR_MAX);
    $message = field('message', MESSAGE_MAX);
    if ($message === '') {
        plain(422, 'an entry needs a message');
        return;
    }
    GuestBook::open()->add($author === '' ? 'Somebody' : $author, $message, $machine);
    header('Location: /', true, 303);
}

/** One line of the form: valid UTF-8, trimmed, and no longer than its column. */
function field(string $name, int $max): string
{
    $value = $_POST[$name] ?? '';
    return is_string($value) ? mb_substr(trim(mb_scrub($value, 'UTF-8')), 0, $max, 'UTF-8') : '';
}

/** Browsers name the page that a form was sent from; other programs name none and carry nobody's session. */
function is_from_this_page(): bool
{
    $origin = $_SERVER['HTTP_ORIGIN'] ?? null;
    if ($origin === null) {
        return true;
    }
    $sender = preg_replace('~^https?://~', '', $origin);
    return strcasecmp($sender, $_SERVER['HTTP_HOST'] ?? '') === 0;
}

/** The second label of this machine's full name, `web1.1161.hello.example.test`: right also when asked for by address. */
function environment(): string
{
    $name = gethostbyaddr(gethostbyname(gethostname())) ?: '';
    return explode('.', $name)[1] ?? 'unknown';
}

function plain(int $status, string $text): void
{
    http_response_code($status);
    header('Content-Type: text/plain; charset=utf-8');
    echo $text, "\n";
}
