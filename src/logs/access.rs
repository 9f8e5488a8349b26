//! Which site a line of a web server's access log is about, where the line says so.

/// The host that was asked for, of Apache's `vhost_combined`: `www.1161.shop.example.test:80 192.0.2.1 - - [10/Oct/…`.
pub fn host(line: &str) -> Option<&str> {
    let mut words = line.split(' ');
    let (host, port) = words.next()?.rsplit_once(':')?;
    let client = words.next()?;
    let shaped = host.contains('.') && port.parse::<u16>().is_ok() && client.parse::<std::net::IpAddr>().is_ok();
    shaped.then_some(host)
}

/// Whether a host is the site's own name, one below it, or one of production's.
pub fn belongs(host: &str, site: &str, aliases: &[String]) -> bool {
    let host = host.to_ascii_lowercase();
    let below = host.strip_suffix(site).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    below || aliases.contains(&host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_line_that_names_its_host_tells_it() {
        let tail = "- - [10/Oct/2000:13:55:36 +0000] \"GET / HTTP/1.1\" 200 1";
        for (start, wanted) in [
            ("www.1161.shop.example.test:80 192.0.2.1", Some("www.1161.shop.example.test")),
            ("www.shop.com:443 2001:db8::1", Some("www.shop.com")),
            ("192.0.2.1 -", None),
            ("2001:db8::1 -", None),
            ("error: 192.0.2.1", None),
        ] {
            assert_eq!(host(&format!("{start} {tail}")), wanted, "{start}");
        }
    }

    #[test]
    fn names_of_a_site() {
        let aliases = ["www.shop.com".to_owned()];
        for (host, wanted) in
            [("www.1.shop.test", true), ("A.WWW.1.shop.test", true), ("www.shop.com", true), ("xwww.1.shop.test", false)]
        {
            assert_eq!(belongs(host, "www.1.shop.test", &aliases), wanted, "{host}");
        }
    }
}
