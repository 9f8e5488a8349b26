//! A file is written on the host: how long until every machine serves it. There is no step between, so the request itself is all
//! that should be seen.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use super::adt::Adt;
use super::report::{Report, Samples};
use super::repository::History;
use super::{HOME, Result, at_once};

const EDITS: usize = 100;

pub fn measure(adt: &Adt, report: &mut Report) -> Result<()> {
    let origin = Path::new(HOME).join("live.git");
    let mut history = History::default();
    history.commit("main", [("public/index.php".to_owned(), b"<?php echo 'first';".to_vec())]);
    history.make(&origin)?;
    let text = format!(
        "[platform]\nname = \"live\"\n[machines.web]\nbox = \"web-php\"\ncount = 2\nmemory = \"256M\"\n\
         [sites.www]\non = \"web\"\npath = \"/srv/www\"\nsource = \"{}\"\n",
        origin.display()
    );
    let folder = Path::new(HOME).join("live");
    adt.platform(&folder, &text)?;
    adt.run("env:init live 1")?;
    let machines = adt.addresses("live 1")?;
    let [mut edited, mut same] = [(); 2].map(|()| Samples::default());
    for number in 0..=EDITS {
        let page = folder.join("1/www/public/index.php");
        let until_all_say = |text: &str| at_once(&machines, |machine| until_says(*machine, text));
        let since = Instant::now();
        std::fs::write(&page, format!("<?php echo 'edit {number}';"))?;
        until_all_say(&format!("edit {number}"))?;
        let first = since.elapsed();
        let since = Instant::now();
        until_all_say(&format!("edit {number}"))?;
        // The first fills caches.
        if number > 0 {
            edited.push(first);
            same.push(since.elapsed());
        }
    }
    report.precise("a PHP file is written on the host → both machines serve it", &edited);
    report.precise("the same two requests with nothing written", &same);
    adt.run("platform:destroy live --yes").map(drop)
}

fn until_says(machine: Ipv4Addr, text: &str) -> Result<()> {
    let since = Instant::now();
    while !page(machine)?.ends_with(text) {
        if since.elapsed() > Duration::from_secs(10) {
            return Err(format!("{machine} does not show `{text}`").into());
        }
    }
    Ok(())
}

fn page(machine: Ipv4Addr) -> Result<String> {
    let mut stream = TcpStream::connect((machine, 80))?;
    write!(stream, "GET / HTTP/1.0\r\nHost: www.1.live.example.test\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
