//! Other firewalls on the host that drop what machines send.
//!
//! In nftables a packet has to pass everybody's chains: our accepting it does not help when Docker's policy is to drop.

use serde_json::Value;

use crate::exec::Command;

/// A sentence with its remedy when another firewall will drop the machines' traffic; `None` also when that can't be told.
pub fn forward_trouble() -> Option<String> {
    from_nft().or_else(from_legacy)
}

fn from_nft() -> Option<String> {
    let output = Command::new("nft").args(["-j", "list", "chains"]).run().ok()?;
    let answer = serde_json::from_slice(&output.stdout).ok()?;
    closed_tables(&answer).into_iter().find(|table| !mentions_adt(table)).map(|table| table.sentence())
}

/// Old iptables rules live beside nftables and don't show there.
fn from_legacy() -> Option<String> {
    let tables = std::fs::read_to_string("/proc/net/ip_tables_names").ok()?;
    if !tables.lines().any(|table| table == "filter") {
        return None;
    }
    let text = Command::new("iptables-legacy").args(["-S"]).run().ok()?.text();
    let closed = text.contains("-P FORWARD DROP") && !text.contains("adt+");
    closed.then(|| Table::new("ip", "filter", &chain_names(&text)).sentence_for("iptables-legacy"))
}

fn chain_names(rules: &str) -> Vec<String> {
    rules.lines().filter_map(|line| line.strip_prefix("-N ")).map(str::to_owned).collect()
}

/// A table that stops forwarded packets which it does not know.
#[derive(Debug, PartialEq, Eq)]
struct Table {
    family: String,
    name: String,
    /// The chain that drops.
    chain: String,
    /// The program that made it, as far as its names tell.
    owner: Owner,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Docker,
    Firewalld,
    Ufw,
    Unknown,
}

impl Table {
    fn new(family: &str, name: &str, chains: &[String]) -> Self {
        let has = |prefix: &str| chains.iter().any(|chain| chain.starts_with(prefix));
        // ufw before Docker: where both run, ufw's policy is the one that stays when Docker is stopped.
        let owner = match () {
            () if name == "firewalld" => Owner::Firewalld,
            () if has("ufw-") => Owner::Ufw,
            () if has("DOCKER") => Owner::Docker,
            () => Owner::Unknown,
        };
        Self { family: family.to_owned(), name: name.to_owned(), chain: "FORWARD".to_owned(), owner }
    }

    fn sentence(&self) -> String {
        self.sentence_for("iptables")
    }

    fn sentence_for(&self, iptables: &str) -> String {
        let (who, remedy) = match self.owner {
            Owner::Docker => (
                "Docker's firewall",
                format!("`{iptables} -I DOCKER-USER -i adt+ -j ACCEPT` and `{iptables} -I DOCKER-USER -o adt+ -j ACCEPT`"),
            ),
            Owner::Ufw => ("ufw", "`ufw default allow routed`".to_owned()),
            Owner::Firewalld => (
                "firewalld",
                "`firewall-cmd --permanent --zone=trusted --add-interface=adt+` and `firewall-cmd --reload`".to_owned(),
            ),
            Owner::Unknown if self.chain == "FORWARD" && self.name == "filter" => (
                "an iptables firewall",
                format!("`{iptables} -I FORWARD -i adt+ -j ACCEPT` and `{iptables} -I FORWARD -o adt+ -j ACCEPT`"),
            ),
            Owner::Unknown => {
                let place = format!("{} {} {}", self.family, self.name, self.chain);
                let rule = |side| format!("`nft insert rule {place} {side} 'adt*' accept`");
                ("another firewall", format!("{} and {}", rule("iifname"), rule("oifname")))
            }
        };
        format!(
            "{who} drops what machines send to the outside (table `{} {}`, chain `{}`): run {remedy}",
            self.family, self.name, self.chain
        )
    }
}

/// The tables in the answer to `nft -j list chains` whose forward chain drops by default.
fn closed_tables(answer: &Value) -> Vec<Table> {
    let chains: Vec<_> =
        answer["nftables"].as_array().into_iter().flatten().map(|entry| &entry["chain"]).filter(|c| c.is_object()).collect();
    let text = |chain: &Value, key: &str| chain[key].as_str().unwrap_or_default().to_owned();
    let closed = chains.iter().filter(|chain| {
        let family = text(chain, "family");
        // firewalld accepts by policy and rejects in its last rule.
        let drops = text(chain, "policy") == "drop" || text(chain, "table") == "firewalld";
        chain["hook"] == "forward" && drops && (family == "ip" || family == "inet") && !text(chain, "table").starts_with("adt_")
    });
    closed
        .map(|chain| {
            let (family, name) = (text(chain, "family"), text(chain, "table"));
            let same = chains.iter().filter(|other| text(other, "family") == family && text(other, "table") == name);
            let names: Vec<_> = same.map(|other| text(other, "name")).collect();
            Table { chain: text(chain, "name"), ..Table::new(&family, &name, &names) }
        })
        .collect()
}

/// Whether somebody has already let our bridges through: a rule for them is there, in front of the policy.
fn mentions_adt(table: &Table) -> bool {
    let command = Command::new("nft").args(["list", "table", &table.family, &table.name]);
    command.run().is_ok_and(|output| output.text().contains("\"adt"))
    // ufw and others open up by address or altogether; then the policy itself has changed.
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(family: &str, table: &str, name: &str, rest: &str) -> String {
        format!(r#"{{"chain":{{"family":"{family}","table":"{table}","name":"{name}"{rest}}}}}"#)
    }

    fn closed(chains: &[String]) -> Vec<Table> {
        closed_tables(&serde_json::from_str(&format!(r#"{{"nftables":[{}]}}"#, chains.join(","))).unwrap())
    }

    const DROP: &str = r#","type":"filter","hook":"forward","prio":0,"policy":"drop""#;
    const ACCEPT: &str = r#","type":"filter","hook":"forward","prio":0,"policy":"accept""#;

    #[test]
    fn each_firewall_is_named_with_its_own_remedy() {
        let cases = [
            (closed(&[chain("ip", "filter", "FORWARD", DROP), chain("ip", "filter", "DOCKER-USER", "")]), "DOCKER-USER -i adt+"),
            (closed(&[chain("ip", "filter", "FORWARD", DROP), chain("ip", "filter", "ufw-before-forward", "")]), "allow routed"),
            (closed(&[chain("inet", "firewalld", "filter_FORWARD", ACCEPT)]), "--zone=trusted"),
            (closed(&[chain("ip", "filter", "FORWARD", DROP)]), "iptables -I FORWARD -o adt+"),
            (closed(&[chain("inet", "mine", "fwd", DROP)]), "nft insert rule inet mine fwd iifname 'adt*' accept"),
        ];
        for (tables, remedy) in cases {
            assert!(tables[0].sentence().contains(remedy), "{}", tables[0].sentence());
        }
    }

    #[test]
    fn open_tables_and_our_own_are_no_trouble() {
        let open = [
            chain("ip", "filter", "FORWARD", ACCEPT),
            chain("inet", "adt_0123abcd", "through_host", DROP),
            chain("bridge", "filter", "FORWARD", DROP),
            chain("ip", "filter", "INPUT", r#","type":"filter","hook":"input","prio":0,"policy":"drop""#),
        ];
        assert_eq!(closed(&open), []);
    }
}
