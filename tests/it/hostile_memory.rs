//! Machines, templates and repositories that would have adt take memory without end. What counts is what the process itself, and
//! each that it waited for, ever had, and that it ends with the right word.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};

use super::adt::Adt;
use super::real_sites::Bench;

/// Far more than any of these takes when all is well, far less than each is given.
const MOST: u64 = 300;

/// What a run of the program took.
struct Spent {
    code: i32,
    /// Bytes on standard output.
    printed: u64,
    /// The end of both outputs.
    said: String,
    /// Mebibytes.
    peak: u64,
}

/// The end of a pipe and how much came of it; it is closed early when more than `most` came.
fn drain(mut pipe: impl Read, most: u64) -> (u64, Vec<u8>) {
    let (mut count, mut end, mut buffer) = (0, Vec::new(), vec![0; 64 << 10]);
    while count < most
        && let Ok(read @ 1..) = pipe.read(&mut buffer)
    {
        count += read as u64;
        end.extend_from_slice(&buffer[..read]);
        end.drain(..end.len().saturating_sub(64 << 10));
    }
    (count, end)
}

#[expect(clippy::zombie_processes, reason = "`wait4` waits for it, and tells what it took")]
fn spend(mut command: Command, most: u64) -> Spent {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let (out, err) = (child.stdout.take().expect("it was piped"), child.stderr.take().expect("it was piped"));
    let err = std::thread::spawn(move || drain(err, u64::MAX).1);
    let (printed, mut end) = drain(out, most);
    end.extend(err.join().expect("it only reads"));
    let (mut status, pid) = (0, i32::try_from(child.id()).expect("a process"));
    // SAFETY: a `rusage` of zeros is a valid one.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the child is ours and not yet waited for; the kernel writes into places that are ours.
    assert_eq!(unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) }, pid);
    let status = ExitStatus::from_raw(status);
    Spent {
        code: status.code().unwrap_or(-1),
        printed,
        said: String::from_utf8_lossy(&end).into_owned(),
        peak: u64::try_from(usage.ru_maxrss).expect("it is a size") >> 10,
    }
}

impl Spent {
    /// It took little, ended with this code and said this.
    #[track_caller]
    fn well(self, code: i32, says: &str) -> Self {
        let end = &self.said[self.said.floor_char_boundary(self.said.len().saturating_sub(3000))..];
        assert!(self.peak < MOST, "{} MiB: {end}", self.peak);
        assert!(self.code == code && self.said.contains(says), "{} instead of {code} with `{says}`: {end}", self.code);
        self
    }
}

/// Runs `adt` with these words.
fn adt(adt: &Adt, words: &[&str]) -> Spent {
    spend(adt.command(words), u64::MAX)
}

/// Puts a program into a machine in front of its own.
fn replace(adt: &Adt, machine: &str, program: &str, script: &str) {
    let into = format!("cat > /usr/local/sbin/{program} && chmod 755 /usr/local/sbin/{program}");
    let mut child =
        adt.command(&["env:exec", "1", machine, "--", "sh", "-c", &into]).stdin(Stdio::piped()).spawn().expect("it starts");
    child.stdin.take().expect("it was piped").write_all(script.as_bytes()).expect("it reads");
    assert!(child.wait().expect("it is ours").success(), "{program}");
}

fn restore(adt: &Adt, machine: &str, program: &str) {
    adt.run(&format!("env:exec 1 {machine} -- rm /usr/local/sbin/{program}")).ok();
}

#[test]
fn templates_take_no_memory_of_adt() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    let folder = adt.platform_toml("tiny", "[platform]\nname = \"tiny\"\nsummary = \"One\"\n[machines.one]\nbox = \"debian\"\n");
    let files = folder.join("files/one/etc");
    std::fs::create_dir_all(&files).expect("the folder is ours");
    let fine = "{{ env }} {{ secret('a') }} {{ secret('a') == secret('b') }}\n";
    std::fs::write(files.join("fine.j2"), fine).expect("the folder is ours");
    adt.run("platform:init tiny").ok();
    let doubled =
        "{% set ns = namespace(x='x' * 1000) %}{% for _ in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x[:9] }}";
    for attempt in [
        doubled,
        "{{ ('x' * 3000000000) | length }}",
        "{% set a = 'x' * 10000 %}{{ a | replace('x', a) | replace('x', a) | length }}",
        "{{ range(99999) | join('x' * 100000) | length }}",
        "{{ ('x\n' * 1000000) | indent(100000) | length }}",
        "{{ '%1000000000s' | format('x') | length }}",
        "{% set a %}{% for _ in range(9999) %}{{ 'x' * 1000000 }}{% endfor %}{% endset %}{{ a | length }}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% else %}{{ 'x' * 1000000 }}{% endif %}{% endmacro %}{{ m(14) | length }}",
        "{% for _ in range(99999) %}{{ 'x' * 1000000 }}{% endfor %}",
        "{% for i in range(99999) %}{{ secret('x' ~ i) }}{% endfor %}",
    ] {
        std::fs::write(files.join("evil.j2"), attempt).expect("the folder is ours");
        let spent = self::adt(&adt, &["env:init", "1"]).well(3, "evil.j2");
        eprintln!("{} MiB: {attempt}: {}", spent.peak, spent.said.trim());
    }
    // A path is a template too.
    std::fs::remove_file(files.join("evil.j2")).expect("it was just there");
    std::fs::write(files.join("{{ ('x' * 3000000000) | length }}"), "").expect("the folder is ours");
    self::adt(&adt, &["env:init", "1"]).well(3, "3000000000");
    std::fs::remove_file(files.join("{{ ('x' * 3000000000) | length }}")).expect("it was just there");
    adt.run("env:init 1").ok();
    let text = adt.run("env:exec 1 one -- cat /etc/fine").ok().stdout;
    assert!(text.starts_with("1 ") && text.ends_with(" False\n") && text.len() == "1  False\n".len() + 32, "{text}");
    adt.run("env:destroy 1 --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

#[test]
fn machines_take_no_memory_of_adt() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    let text = "[platform]\nname = \"tiny\"\nsummary = \"Two\"\n[machines.node]\nbox = \"debian\"\ncount = 2\nlogs = [\"/var/log/own/*.log\"]\n";
    adt.platform_toml("tiny", text);
    adt.run("platform:init tiny").ok();
    adt.run("env:init 1").ok();
    // A program whose output goes to the caller, all of it.
    let whole = self::adt(&adt, &["env:exec", "1", "node1", "--", "head", "-c", "500000000", "/dev/zero"]).well(0, "");
    assert_eq!(whole.printed, 500_000_000);
    // Lines of several machines, on both ways, one of them without an end.
    let both = "head -c 100000000 /dev/zero; echo; yes $(seq 5000) | head -c 50000000 >&2; exit 3";
    let both = self::adt(&adt, &["env:exec", "1", "--", "sh", "-c", both]).well(3, " | 1 2 3");
    assert!(both.printed > 200_000_000, "{}", both.printed);

    // A `tar` that says much and reads nothing: nobody waits for ever.
    let file = adt.path().join("file");
    std::fs::write(&file, vec![7; 20 << 20]).expect("the home is ours");
    let file = file.display().to_string();
    replace(&adt, "node1", "tar", "#!/bin/sh\nhead -c 200000000 /dev/zero >&2; echo >&2\necho last >&2\nexit 3\n");
    self::adt(&adt, &["env:cp", "1", &file, "node1:/tmp/file"]).well(8, "last");
    // One that begins a name and never ends it.
    let endless = "#!/usr/bin/perl\nmy $h = pack('a100a8a8a8a12a12A8aa100a6a2', 'x', '0000644', '0000000', '0000000', '77777777777', \
                   '00000000000', '', 'L', '', \"ustar \", \" \");\n$h .= \"\\0\" x (512 - length $h);\nsubstr($h, 148, 8, sprintf(\"%06o\\0 \", \
                   unpack('%32C*', $h)));\nprint $h;\nprint 'a' x 65536 for 1 .. 20000;\n";
    replace(&adt, "node1", "tar", endless);
    self::adt(&adt, &["env:cp", "1", "node1:/etc/passwd", &format!("{file}.2")]).well(7, "a name without end");
    restore(&adt, "node1", "tar");
    adt.run(&format!("env:cp 1 {file} node1:/tmp/file")).ok();
    adt.run("env:exec 1 node1 -- cmp -n 20971520 /tmp/file /tmp/file").ok();

    // An init that has much to say of how it is.
    replace(
        &adt,
        "node1",
        "systemctl",
        "#!/bin/sh\nyes failed.service | head -c 3000000\nhead -c 300000000 /dev/zero | tr '\\0' x\necho\necho maintenance\nexit 1\n",
    );
    self::adt(&adt, &["env:check", "1", "--json"]).well(0, "its init is maintenance");
    restore(&adt, "node1", "systemctl");

    // A journal of records without end, and one of very many.
    replace(&adt, "node1", "journalctl", "#!/bin/sh\nprintf '{\"MESSAGE\":\"'\nhead -c 500000000 /dev/zero | tr '\\0' x\n");
    self::adt(&adt, &["env:logs", "1", "--machine", "node1"]).well(0, "");
    let many = "#!/usr/bin/perl\nmy $m = 'x' x 90000;\nmy $t = time;\nprint qq({\"MESSAGE\":\"$m\",\"__REALTIME_TIMESTAMP\":\"${t}000000\",\
                \"__CURSOR\":\"$_\"}\\n) for 1 .. 500;\n";
    replace(&adt, "node1", "journalctl", many);
    let spent = self::adt(&adt, &["env:logs", "1", "--machine", "node1", "--lines", "1000"]).well(0, "xxx");
    assert!(spent.printed > 30_000_000, "{}", spent.printed);
    // Followed until who reads has enough.
    let words = ["env:logs", "1", "--machine", "node1", "--follow", "--lines", "1"];
    let spent = spend(adt.command(&words), 10_000_000).well(0, "xxx");
    assert!(spent.printed >= 10_000_000, "{}", spent.printed);
    restore(&adt, "node1", "journalctl");

    // Log files without number.
    let files = "#!/usr/bin/perl\nmy ($p, $m, $t) = ('x' x 3000, 'y' x 60000, time);\nmy $mode = $ARGV[2];\n\
                 if ($mode eq 'list') { print \"$_\\t1\\t$t\\t+0000\\t/var/log/own/$p$_.log\\n\" for 1 .. 30_000 }\n\
                 else { print \"$_\\t1\\t$t\\t+0000\\t/var/log/own/$p$_.log\\t $m\\n\" for 1 .. ($mode eq 'read' ? 20 : 10_000) }\n";
    replace(&adt, "node2", "perl", files);
    self::adt(&adt, &["env:logs", "1", "--machine", "node2", "--lines", "10"]).well(0, "the 128 newest are shown");
    restore(&adt, "node2", "perl");

    adt.run("env:destroy 1 --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

#[test]
fn a_machines_users_are_read_with_an_end() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    let text = "[platform]\nname = \"tiny\"\nsummary = \"Two\"\n[machines.node]\nbox = \"debian\"\ncount = 2\n";
    adt.platform_toml("tiny", text);
    adt.run("platform:init tiny").ok();
    adt.run("env:init 1").ok();
    let whoami = ["env:exec", "1", "node1", "--user", "daemon", "--", "id", "-un"];
    self::adt(&adt, &whoami).well(0, "daemon");
    for attempt in [
        "mkfifo /etc/passwd",
        "ln -s /dev/zero /etc/passwd",
        "mknod /etc/passwd c 1 5 || ln /dev/zero /etc/passwd || ln -s /dev/urandom /etc/passwd",
        "truncate -s 100G /etc/passwd",
        "yes daemon:x:1 | head -c 2000000 > /etc/passwd",
        "ln -s /proc/kcore /etc/passwd",
        "ln -s /proc/self/fd/0 /etc/passwd",
        "mkdir /etc/passwd",
    ] {
        let script = format!("mv /etc/passwd /etc/kept && {{ {attempt}; }}");
        adt.command(&["env:exec", "1", "node1", "--", "sh", "-c", &script]).status().expect("it starts");
        self::adt(&adt, &whoami).well(8, "the machine has no user `daemon`");
        // Its root is there all the same.
        adt.run("env:exec 1 node1 -- rm -rf /etc/passwd").ok();
        adt.run("env:exec 1 node1 -- mv /etc/kept /etc/passwd").ok();
    }
    self::adt(&adt, &whoami).well(0, "daemon");
    adt.run("env:destroy 1 --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

#[test]
fn repositories_and_answers_take_no_memory_of_adt() {
    let Some(bench) = Bench::new() else { return };
    let adt = &bench.adt;
    let origin = adt.path().join("origins/www.git");
    // A commit that is called by a very long name, and texts of all sizes.
    let evil = "head -c 40000000 /dev/zero | tr '\\0' m > ../subject && \
                seq 30000 | sed 's/^/{{ env }}/' > many.j2 && git -c safe.directory='*' add . && git -c safe.directory='*' -c user.name=E -c user.email=e@x commit -q -F ../subject";
    let done = Command::new("sh").args(["-c", evil]).current_dir(&origin).status().expect("it starts");
    assert!(done.success());
    Command::new("chown").args(["-R", "--reference=.."]).arg(".").current_dir(&origin).status().expect("it starts");
    self::adt(adt, &["platform:init", "shop"]).well(0, "");
    self::adt(adt, &["env:init", "1161"]).well(0, "");
    self::adt(adt, &["site:list", "1161"]).well(0, "www");
    // A server that answers without end.
    let server = "systemctl stop apache2; exec systemd-run --quiet --unit=endless perl -MSocket -e \
                  'socket(S, PF_INET, SOCK_STREAM, 6); setsockopt(S, SOL_SOCKET, SO_REUSEADDR, 1); bind(S, sockaddr_in(80, INADDR_ANY)) or die; \
                  listen(S, 9); while (accept(C, S)) { next if fork; sysread C, $x, 9999; 1 while syswrite C, \"x\" x 65536; exit }'";
    let done = adt.command(&["env:exec", "1161", "web1", "--", "sh", "-c", server]).status().expect("it starts");
    assert!(done.success());
    self::adt(adt, &["env:check", "1161", "--json"]).well(13, "closes without an answer");
    adt.run("env:destroy 1161 --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}
