<?php
declare(strict_types=1);

function e(string $text): string
{
    return htmlspecialchars($text, ENT_QUOTES | ENT_SUBSTITUTE, 'UTF-8');
}

/** The same machine has the same colour everywhere. */
function badge(string $machine): string
{
    $hue = crc32($machine) % 360;
    return '<span class="badge" style="--hue: ' . $hue . '">' . e($machine) . '</span>';
}

/** @param list<array{author: string, message: string, machine: string, written: string}> $entries */
function guestbook_page(string $machine, string $environment, int $count, array $entries): void
{
    head($machine, $environment, refresh: false);
    ?>
<form method="post" action="/">
  <label>Your name <input name="author" maxlength="60" autocomplete="name"></label>
  <label>Message <textarea name="message" maxlength="500" rows="3" required></textarea></label>
  <button>Sign the guest book</button>
</form>
<h2><?= $count === 1 ? '1 entry' : $count . ' entries' ?></h2>
<?php if ($entries === []): ?>
<p class="muted">Nobody has written anything yet.</p>
<?php else: ?>
<ol>
<?php foreach ($entries as $entry): ?>
  <li>
    <p><?= nl2br(e($entry['message'])) ?></p>
    <footer><b><?= e($entry['author']) ?></b> · <time><?= e($entry['written']) ?></time> · written on <?= badge($entry['machine']) ?></footer>
  </li>
<?php endforeach ?>
</ol>
<?php endif ?>
</main>
</html>
<?php
}

/** Shown while the database machine is still starting; asks again by itself. */
function waiting_page(string $machine, string $environment): void
{
    head($machine, $environment, refresh: true);
    ?>
<p>The database does not answer yet. This page asks again every two seconds.</p>
</main>
</html>
<?php
}

function head(string $machine, string $environment, bool $refresh): void
{
    header('Content-Type: text/html; charset=utf-8');
    ?>
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<?php if ($refresh): ?>
<meta http-equiv="refresh" content="2">
<?php endif ?>
<title>Guest book of <?= e($environment) ?></title>
<style>
:root {
  color-scheme: light dark;
  --back: light-dark(#f6f5f2, #17181b);
  --card: light-dark(#fff, #212328);
  --line: light-dark(#dcd9d2, #383b42);
  --text: light-dark(#22252a, #e8e6e1);
  --muted: light-dark(#63676e, #a2a5ab);
  --accent: light-dark(#2454a6, #8db4f5);
}
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--text); font: 1rem/1.55 system-ui, sans-serif }
main { max-width: 42rem; margin: 0 auto; padding: 3rem 1.25rem 5rem }
h1 { margin: 0; font-size: 2rem; line-height: 1.2 }
h2 { margin: 2.5rem 0 1rem; font-size: 1.1rem }
.muted, footer { color: var(--muted) }
form, li { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: 1.25rem }
form { display: grid; gap: 1rem; margin-top: 2rem }
label { display: grid; gap: .35rem; font-weight: 600 }
input, textarea { width: 100%; padding: .55rem .7rem; border: 1px solid var(--line); border-radius: .5rem; background: var(--back); color: inherit; font: inherit }
:is(input, textarea, button):focus-visible { outline: 2px solid var(--accent); outline-offset: 1px }
button { justify-self: start; padding: .6rem 1.1rem; border: 0; border-radius: .5rem; background: var(--accent); color: var(--card); font: inherit; font-weight: 600; cursor: pointer }
ol { list-style: none; margin: 0; padding: 0; display: grid; gap: .75rem }
li p { margin: 0 0 .6rem; overflow-wrap: anywhere }
footer { font-size: .875rem }
.badge { padding: .1rem .5rem; border-radius: 1rem; font: .85em ui-monospace, monospace;
  background: light-dark(hsl(var(--hue) 70% 88%), hsl(var(--hue) 35% 26%)); color: light-dark(hsl(var(--hue) 70% 22%), hsl(var(--hue) 70% 86%)) }
</style>
<main>
<h1>Guest book</h1>
<p class="muted">Environment <b><?= e($environment) ?></b>, answered by <?= badge($machine) ?></p>
<?php
}
