//! How a person's `ssh` is called for a server.

use std::path::{Path, PathBuf};

use super::{host_key, script};
use crate::exec::{Account, Command};
use crate::model::target::{Fingerprint, Server};

/// With whose rights and keys one goes to servers.
#[derive(Debug, Clone)]
pub struct Way {
    /// `None` is root itself.
    pub account: Option<Account>,
    pub home: Option<PathBuf>,
    /// The only key that counts, with nobody's settings. `None` leaves both to the person.
    pub identity: Option<PathBuf>,
    /// This adt, which `ssh` asks about host keys.
    pub program: PathBuf,
}

impl Way {
    /// Only servers that targets are rehearsed on know a key of adt's own.
    pub fn is_rehearsal(&self) -> bool {
        self.identity.is_some()
    }
}

/// Whatever a person's settings say, it asks nobody, forwards nothing, and believes no key that nobody vouched for.
const SETTINGS: [&str; 14] = [
    "BatchMode=yes",
    "ConnectTimeout=10",
    // A server that is cut off is noticed within a minute.
    "ServerAliveInterval=15",
    "ServerAliveCountMax=3",
    "StrictHostKeyChecking=yes",
    "UpdateHostKeys=no",
    // Over a connection that is open already no host key would be checked.
    "ControlMaster=no",
    "ControlPath=none",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "RequestTTY=no",
];

impl Way {
    /// The call that runs the script on a server.
    pub fn to(&self, server: &Server) -> Command {
        let mut command = Command::new("ssh").arg("-T");
        if let Some(identity) = &self.identity {
            command = command.args(["-F", "none", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-i"]).arg(identity);
        }
        for setting in SETTINGS {
            command = command.args(["-o", setting]);
        }
        if let Some(wanted) = &server.host_key {
            for setting in
                ["UserKnownHostsFile=/dev/null", "GlobalKnownHostsFile=/dev/null", "VerifyHostKeyDNS=no", "CheckHostIP=no"]
            {
                command = command.args(["-o", setting]);
            }
            command = command.arg("-o").arg(format!("KnownHostsCommand={}", who_is_known(&self.program, wanted)));
        }
        if let Some(port) = server.address.port {
            command = command.arg("-p").arg(port.to_string());
        }
        command = command.args(["-l", &server.address.user, "--", &server.address.host]).arg(script::call(&server.address.user));
        if let Some(account) = &self.account {
            command = command.account(account.clone());
        }
        match &self.home {
            Some(home) => command.env("HOME", home),
            None => command,
        }
    }
}

/// `ssh` splits it at blanks that are not quoted, then puts its own words in for `%`.
fn who_is_known(program: &Path, wanted: &Fingerprint) -> String {
    let program = program.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    format!("\"{program}\" {} {wanted} {}", host_key::VERB, host_key::TOKENS.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::target::Address;

    fn words(server: &Server, identity: Option<&str>) -> Vec<String> {
        let way = Way { account: None, home: None, identity: identity.map(Into::into), program: "/opt/my adt/100%/adt".into() };
        way.to(server).args.iter().map(|word| word.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_server_is_called_as_its_address_says_and_never_blindly() {
        let server = Server { address: Address::parse("root@[2001:db8::1]:2222").unwrap(), host_key: None };
        let call = words(&server, None);
        assert!(
            call.ends_with(&["-p", "2222", "-l", "root", "--", "2001:db8::1", &script::call("root")].map(str::to_owned)),
            "{call:?}"
        );
        assert!(call.contains(&"StrictHostKeyChecking=yes".to_owned()) && !call.iter().any(|word| word.contains("KnownHosts")));
        let print = format!("SHA256:{}", "a".repeat(43));
        let server = Server { host_key: Some(Fingerprint::new(print.clone()).unwrap()), ..server };
        let call = words(&server, Some("/key"));
        let known = format!("KnownHostsCommand=\"/opt/my adt/100%%/adt\" internal:host-key {print} %I %f %H %t %K");
        assert!(call.contains(&known) && call.contains(&"UserKnownHostsFile=/dev/null".to_owned()), "{call:?}");
        assert!(call.windows(2).any(|two| two == ["-i", "/key"]) && call.windows(2).any(|two| two == ["-F", "none"]));
    }
}
