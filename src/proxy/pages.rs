//! What a person or a program reads where no site answers: homepages, and pages that say why not and which command helps.

use std::fmt::Display;

use hyper::body::Bytes;
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

use super::download::Download;
use super::failure::Failure;
use super::table::{Endpoint, Found, Site, Table};
use crate::model::route::OWN_PAGE;
use crate::model::{EnvironmentRoute, PlatformRoute};
use crate::template;

/// Our pages run no scripts, send no forms, are shown in no other page's frame and read by no other page's scripts.
const FOR_BROWSERS: [(HeaderName, &str); 6] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (X_FRAME_OPTIONS, "DENY"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

const STYLE: &str = include_str!("../../proxy/pages/style.css");
const HOME: &str = include_str!("../../proxy/pages/home.html");
const PROBLEM: &str = include_str!("../../proxy/pages/problem.html");

/// How a client wants to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Html,
    Json,
    Text,
}

#[derive(Debug)]
pub struct Asker {
    form: Form,
    reads: bool,
}

impl Asker {
    pub fn of<B>(request: &Request<B>) -> Self {
        let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let form = if accept.contains("text/html") {
            Form::Html
        } else if accept.contains("json") {
            Form::Json
        } else {
            Form::Text
        };
        Self { form, reads: matches!(*request.method(), Method::GET | Method::HEAD) }
    }

    /// Asks for nothing to be changed.
    pub fn reads(&self) -> bool {
        self.reads
    }
}

/// How links to names of ours begin.
#[derive(Debug)]
pub struct Links {
    /// Of https; `None` where only http is served.
    pub port: Option<u16>,
}

impl Links {
    pub fn origin(&self, name: &str) -> String {
        match self.port {
            Some(443) => format!("https://{name}"),
            Some(port) => format!("https://{name}:{port}"),
            None => format!("http://{name}"),
        }
    }

    fn to(&self, text: &impl Display, name: &str) -> Link {
        Link { text: text.to_string(), href: format!("{}/", self.origin(name)) }
    }
}

#[derive(Debug, Serialize)]
pub struct Link {
    text: String,
    href: String,
}

/// Why there is nothing to see.
#[derive(Debug, Serialize)]
pub struct Page {
    #[serde(skip)]
    pub status: StatusCode,
    title: String,
    why: String,
    /// What helps.
    command: Option<String>,
    /// What is there instead.
    links: Vec<Link>,
    /// In how many seconds it may be different.
    #[serde(skip)]
    retry: Option<u32>,
}

impl Page {
    fn new(status: StatusCode, title: impl Into<String>, why: impl Into<String>) -> Self {
        Self { status, title: title.into(), why: why.into(), command: None, links: Vec::new(), retry: None }
    }

    fn command(self, command: impl Into<String>) -> Self {
        Self { command: Some(command.into()), ..self }
    }

    fn retry(self, seconds: u32) -> Self {
        Self { retry: Some(seconds), ..self }
    }

    fn links(self, links: impl Iterator<Item = Link>) -> Self {
        Self { links: links.collect(), ..self }
    }

    pub fn bad_host() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "no host", "the request does not name one host that could exist")
    }

    pub fn broken_upload() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "broken request", "the request's body ended too early")
    }

    pub fn slow_upload() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "slow request", "the request's body comes too slowly")
    }

    /// Of whoever asks: the others have the rest.
    pub fn crowded_client() -> Self {
        let why = "too many requests or connections of this client are open, and the others' places are kept for them";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests", why).retry(1)
    }

    pub fn crowded_site(site: &Site) -> Self {
        let (platform, environment) = (&site.platform, &site.environment);
        let why = format!("environment {platform}/{environment} has too many requests open that it has not answered");
        let page = Self::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests", why);
        page.command(format!("adt env:check {platform} {environment}")).retry(1)
    }

    pub fn coding() -> Self {
        let why = "bodies are taken whole or in chunks: `Transfer-Encoding: chunked` and nothing else";
        Self::new(StatusCode::NOT_IMPLEMENTED, "unknown coding", why)
    }

    pub fn no_page(path: &str, links: &Links, name: &str) -> Self {
        let page = Self::new(StatusCode::NOT_FOUND, "no such page", format!("there is no page `{path}` here"));
        page.links(std::iter::once(links.to(&name, name)))
    }

    pub fn method(method: &Method) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed", format!("{method} is not for sites"))
    }

    pub fn halted(platform: &str, environment: &str) -> Self {
        let why = format!("environment {platform}/{environment} is halted");
        let page = Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("{platform}/{environment} is halted"), why);
        page.command(format!("adt env:up {platform} {environment}")).retry(10)
    }

    pub fn no_answer(site: &Site, last: Option<(&Endpoint, &Failure)>) -> Self {
        let (platform, environment, name) = (&site.platform, &site.environment, &site.route.name);
        let title = format!("{name} does not answer");
        let page = match last {
            Some((endpoint, failure)) => {
                let status = match failure {
                    // Like a site that no machine serves: nobody was there to be asked.
                    Failure::Connect(_) | Failure::ConnectTimeout(_) | Failure::Gone | Failure::Crowded(_) => {
                        StatusCode::SERVICE_UNAVAILABLE
                    }
                    Failure::Broken(_) | Failure::Cut(_) | Failure::Wrong(_) => StatusCode::BAD_GATEWAY,
                    Failure::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
                };
                let machines: Vec<_> = site.endpoints.iter().map(|endpoint| endpoint.backend.machine.as_str()).collect();
                let (machine, address) = (&endpoint.backend.machine, endpoint.backend.address);
                let why = format!(
                    "environment {platform}/{environment}, site {name} on {}: machine {machine} ({address}): {failure}",
                    machines.join(", ")
                );
                Self::new(status, title, why)
            }
            None => {
                let why = format!("environment {platform}/{environment}: no machine serves the site {name}");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, title, why)
            }
        };
        page.command(format!("adt env:check {platform} {environment}")).retry(2)
    }

    pub fn no_site(name: &str, platform: &PlatformRoute, environment: &EnvironmentRoute, links: &Links) -> Self {
        let (id, host) = (&environment.id, environment.host());
        let label = name.strip_suffix(&host).map(|rest| rest.trim_end_matches('.')).unwrap_or(name);
        let machine = environment.machines.iter().find(|machine| machine.name.as_str() == label);
        let page = match machine {
            Some(machine) => {
                let why = format!("{label} is a machine of environment {}: reach it directly at {}", id.name, machine.v4);
                Self::new(StatusCode::NOT_FOUND, format!("{label} is a machine"), why)
                    .command(format!("adt env:ssh {} {} {label}", platform.name, id.name))
            }
            None => {
                let why = format!("environment {} of {} has no site `{label}`", id.name, platform.name);
                Self::new(StatusCode::NOT_FOUND, "no such site", why)
                    .command(format!("adt env:urls {} {}", platform.name, id.name))
            }
        };
        page.links(environment.sites.iter().map(|site| links.to(&site.name, &site.host)))
    }

    pub fn no_environment(name: &str, platform: &PlatformRoute, links: &Links) -> Self {
        let host = platform.host();
        let rest = name.strip_suffix(&host).map(|rest| rest.trim_end_matches('.')).unwrap_or(name);
        let label = rest.rsplit('.').next().unwrap_or(rest);
        let why = format!("platform {} has no environment `{label}`", platform.name);
        let page = Self::new(StatusCode::NOT_FOUND, "no such environment", why);
        let page = match crate::model::EnvironmentName::new(label) {
            Ok(label) => page.command(format!("adt env:init {} {label}", platform.name)),
            Err(_) => page,
        };
        page.links(platform.environments.iter().map(|environment| links.to(&environment.id.name, &environment.host())))
    }

    pub fn no_platform(name: &str, table: &Table, links: &Links) -> Self {
        let page = Self::new(StatusCode::NOT_FOUND, "no such platform", format!("no platform answers for `{name}`"));
        let platforms = table.routes.platforms.iter().map(|platform| links.to(&platform.name, &platform.host()));
        page.command("adt platform:list").links(platforms)
    }

    pub fn foreign(name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown host", format!("`{name}` is not a name that adt answers for"))
    }

    /// For a machine, whose world ends where its environment does.
    pub fn outside(name: &str) -> Self {
        let why = format!("`{name}` is outside of this machine's environment, and environments can't reach each other");
        Self::new(StatusCode::FORBIDDEN, "another environment", why)
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n", self.why);
        if let Some(command) = &self.command {
            text.push_str(&format!("try: {command}\n"));
        }
        for link in &self.links {
            text.push_str(&format!("{}\n", link.href));
        }
        text
    }
}

/// A problem as the client can read it.
pub fn page(asker: &Asker, page: Page) -> Response<Download> {
    let body = match asker.form {
        Form::Html => {
            let facts = json!({"style": STYLE, "page": page, "status": page.status.as_u16(), "retry": page.retry});
            html("problem.html", PROBLEM, &facts)
        }
        Form::Json => json!({"status": page.status.as_u16(), "error": page}).to_string(),
        Form::Text => page.text(),
    };
    let mut response = response(page.status, asker.form, body);
    if let Some(retry) = page.retry {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry));
    }
    response
}

/// The whole answer to a client whose connection is not served, in the form that its first words ask for.
pub fn refusal(head: &[u8]) -> Vec<u8> {
    let html = head.windows(9).any(|word| word.eq_ignore_ascii_case(b"text/html"));
    let asker = Asker { form: if html { Form::Html } else { Form::Text }, reads: true };
    let response = page(&asker, Page::crowded_client());
    let mut text = format!("HTTP/1.1 {}\r\nconnection: close\r\n", response.status()).into_bytes();
    for (name, value) in response.headers() {
        text.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    let Download::Whole { bytes: Some(body), .. } = response.body() else { unreachable!("pages are whole") };
    text.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    text.extend_from_slice(body);
    text
}

/// The homepage of a level.
pub fn home(asker: &Asker, place: &Found<'_>, name: &str, table: &Table, links: &Links) -> Response<Download> {
    if !asker.reads {
        let problem = Page::new(StatusCode::METHOD_NOT_ALLOWED, "read only", "homepages can only be read");
        let mut response = page(asker, problem);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let facts = match place {
        Found::Environment(platform, environment) => environment_facts(platform, environment, links),
        Found::Platform(platform) => platform_facts(platform, links),
        _ => domain_facts(name, table, links),
    };
    let body = match asker.form {
        Form::Html => html("home.html", HOME, &json!({"style": STYLE, "home": facts})),
        Form::Json => facts.to_string(),
        Form::Text => text(&facts),
    };
    response(StatusCode::OK, asker.form, body)
}

fn row(link: &Link, note: impl Into<String>, state: Option<bool>) -> Value {
    json!({"name": link.text, "href": link.href, "note": note.into(), "up": state})
}

fn domain_facts(name: &str, table: &Table, links: &Links) -> Value {
    let platforms = table.routes.platforms.iter().filter(|platform| platform.domain.as_str() == name);
    let row = |platform: &PlatformRoute| row(&links.to(&platform.name, &platform.host()), &platform.summary, None);
    json!({"title": name, "note": "", "state": null, "noun": "platforms", "rows": platforms.map(row).collect::<Vec<_>>(),
        "machines": [], "command": "adt platform:list"})
}

fn platform_facts(platform: &PlatformRoute, links: &Links) -> Value {
    let row = |environment: &EnvironmentRoute| {
        let note = format!("{}, {}", environment.owner, day(environment.created));
        row(&links.to(&environment.id.name, &environment.host()), note, Some(environment.up))
    };
    let rows: Vec<_> = platform.environments.iter().map(row).collect();
    json!({"title": format!("Platform {}", platform.name), "note": platform.summary, "state": null, "noun": "environments", "rows": rows,
        "machines": [], "command": format!("adt env:list {}", platform.name)})
}

fn environment_facts(platform: &PlatformRoute, environment: &EnvironmentRoute, links: &Links) -> Value {
    let name = &environment.id.name;
    let machine = |machine: &crate::model::MachineRoute| {
        json!({"name": machine.name, "host": environment.machine_host(machine), "v4": machine.v4, "v6": machine.v6,
            "ssh": format!("adt env:ssh {} {name} {}", platform.name, machine.name)})
    };
    let rows: Vec<_> = environment.sites.iter().map(|site| row(&links.to(&site.name, &site.host), &site.host, None)).collect();
    let command = if environment.up { "env:check" } else { "env:up" };
    json!({"title": format!("Environment {}", environment.id), "note": format!("{}, {}", environment.owner, day(environment.created)),
        "state": if environment.up { "up" } else { "halted" }, "noun": "sites", "rows": rows,
        "machines": environment.machines.iter().map(machine).collect::<Vec<_>>(),
        "command": format!("adt {command} {} {name}", platform.name)})
}

fn day(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map(|time| time.strftime("%Y-%m-%d %H:%M UTC").to_string()).unwrap_or_default()
}

fn text(facts: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut text = format!("{}\n", word(&facts["title"]));
    for row in facts["rows"].as_array().into_iter().flatten() {
        text.push_str(&format!("{}\n", word(&row["href"])));
    }
    for machine in facts["machines"].as_array().into_iter().flatten() {
        text.push_str(&format!("{} {}\n", word(&machine["host"]), word(&machine["v4"])));
    }
    text
}

fn html(name: &str, source: &str, facts: &Value) -> String {
    template::render_html(name, source, facts).unwrap_or_else(|error| {
        tracing::error!(%error, "a page can't be rendered");
        "<!doctype html><title>adt</title>This page can't be shown.".to_owned()
    })
}

/// For programs that understand nothing else.
pub fn plain(text: String) -> Response<Download> {
    response(StatusCode::OK, Form::Text, text)
}

fn response(status: StatusCode, form: Form, body: String) -> Response<Download> {
    let kind = match form {
        Form::Html => "text/html; charset=utf-8",
        Form::Json => "application/json",
        Form::Text => "text/plain; charset=utf-8",
    };
    let mut response = Response::new(Download::whole(Some(Bytes::from(body))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(OWN_PAGE, HeaderValue::from_static("1"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in FOR_BROWSERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
