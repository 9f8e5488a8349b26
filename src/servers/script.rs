//! What runs on a server before adt does: a constant for whatever `sh` there is, and the lines that it says.
//!
//! The program lies in `/usr/local/bin/adt`. While a new one has not proven itself, the one before it is beside it as `.adt-before`,
//! empty where there was none. So that file also says that the server is not set up for the program that it has.

use crate::model::Digest;

/// What lines of the script begin with; others are a login's greetings.
pub const MARK: &str = "adt-door ";
pub const DONE: &str = "done";
/// Beside the program, the one before it.
pub const BEFORE: &str = ".adt-before";

const SCRIPT: &str = r#"umask 022; d=/usr/local/bin; f=$d/adt; b=$d/.adt-before;
sum() { sha256sum "$1" 2>/dev/null | cut -c1-64; };
h=$(sum $f); p=no; test -e $b && p=yes;
r=$(df -Pk $d | tail -n 1 | tr -s " " | cut -d" " -f4);
echo "adt-door 1 $(id -u) $(uname -s) $(uname -m) ${h:-none} $p ${r:-0}";
read -r w n s || exit 0;
case $w in
go) ;;
back) if test -s $b; then mv -f $b $f; else rm -f $b $f; fi; sync $d; echo "adt-door done"; exit 0;;
put) rm -f $d/.adt-new-*; t=$d/.adt-new-$$;
head -c $n >$t && test "$(sum $t)" = $s && chmod 755 $t && sync $t && $t --version >/dev/null || { rm -f $t; exit 1; };
test -e $b || ln $f $b 2>/dev/null || : >$b;
mv -f $t $f && sync $d && echo "adt-door done" || exit 1;;
*) exit 2;;
esac;
exec $f internal:server"#;

/// One word for a login shell of whatever kind: without a line's end, and in quotes that all of them know. Who isn't root becomes it
/// by sudo, which asks nobody for a password.
pub fn call(user: &str) -> String {
    let sudo = if user == "root" { "" } else { "sudo -n -- " };
    format!("exec {sudo}sh -c '{}'", SCRIPT.replace('\n', " "))
}

/// What the script says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub user: u32,
    pub system: String,
    pub processor: String,
    /// Of the adt there.
    pub program: Option<Digest>,
    /// The program has not proven itself yet.
    pub is_pending: bool,
    /// Bytes that fit beside it.
    pub room: u64,
}

/// Reads the words behind the mark.
pub fn found(words: &str) -> Option<Found> {
    let [version, user, system, processor, program, pending, room] = words.split(' ').collect::<Vec<_>>().try_into().ok()?;
    if version != "1" {
        return None;
    }
    Some(Found {
        user: user.parse().ok()?,
        system: system.to_owned(),
        processor: processor.to_owned(),
        program: if program == "none" { None } else { Some(Digest::try_from(program.to_owned()).ok()?) },
        is_pending: match pending {
            "yes" => true,
            "no" => false,
            _ => return None,
        },
        room: room.parse::<u64>().ok()?.saturating_mul(1024),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_one_word_in_single_quotes() {
        for (user, start) in [("root", "exec sh -c 'umask"), ("debian", "exec sudo -n -- sh -c 'umask")] {
            let call = call(user);
            assert!(call.starts_with(start), "{call}");
            assert_eq!(call.matches('\'').count(), 2);
            assert!(!call.contains(['\n', '!']), "csh would take these for its own");
            assert!(call.contains(&format!("b=$d/{BEFORE};")));
        }
    }

    #[test]
    fn what_it_says_is_read_and_nothing_else() {
        let hash = "a".repeat(64);
        let read = found(&format!("1 0 Linux x86_64 {hash} no 12")).unwrap();
        assert_eq!((read.user, read.room, read.is_pending), (0, 12 * 1024, false));
        assert_eq!(read.program.unwrap().as_str(), hash);
        assert_eq!(found("1 0 Linux x86_64 none yes 0").unwrap().program, None);
        for words in [
            "",
            "2 0 Linux x86_64 none no 0",
            "1 0 Linux x86_64 none no",
            "1 0 Linux x86_64 zz no 0",
            "1 x Linux x86_64 none no 0",
            "1 0 Linux x86_64 none maybe 0",
            "1 0 Linux x86_64 none no -1",
            "1 0 Linux x86_64 none no 0 more",
        ] {
            assert_eq!(found(words), None, "{words}");
        }
    }
}
