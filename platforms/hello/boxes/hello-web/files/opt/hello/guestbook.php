<?php
declare(strict_types=1);

/** The guest book's table. The name `db` is the machine of that name in the same environment. */
final class GuestBook
{
    private function __construct(private readonly mysqli $db)
    {
    }

    /** @throws mysqli_sql_exception when the database does not answer */
    public static function open(): self
    {
        mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
        $db = mysqli_init();
        // A database that is still starting must not hold a worker for long.
        $db->options(MYSQLI_OPT_CONNECT_TIMEOUT, 2);
        $db->real_connect('db', 'hello', '', 'hello');
        $db->set_charset('utf8mb4');
        return new self($db);
    }

    public function add(string $author, string $message, string $machine): void
    {
        $insert = $this->db->prepare('INSERT INTO entries (author, message, machine) VALUES (?, ?, ?)');
        $insert->execute([$author, $message, $machine]);
    }

    /** @return list<array{author: string, message: string, machine: string, written: string}> the newest first */
    public function latest(int $count): array
    {
        $select = $this->db->prepare(
            'SELECT author, message, machine, written FROM entries ORDER BY id DESC LIMIT ?'
        );
        $select->execute([$count]);
        return $select->get_result()->fetch_all(MYSQLI_ASSOC);
    }

    public function count(): int
    {
        return (int) $this->db->query('SELECT COUNT(*) FROM entries')->fetch_column();
    }
}
