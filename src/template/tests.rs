use proptest::prelude::*;
use serde_json::json;

use super::*;

fn facts() -> Value {
    json!({ "env": "1161", "site": { "port": 8080, "name": "www" }, "machines": [{ "name": "web1" }, { "name": "web2" }] })
}

#[test]
fn holes_are_filled_and_the_rest_is_left_alone() {
    for (source, wanted) in [
        ("branch {{ env }}\n", "branch 1161\n"),
        ("{% for m in machines %}\n- {{ m.name }}\n{% endfor %}\n", "- web1\n- web2\n"),
        ("a < b & \"{{ site.name }}\"", "a < b & \"www\""),
        ("{{ site.nope | default('x') }}", "x"),
        ("{% if site.nope is defined %}y{% endif %}", ""),
        ("", ""),
        ("\n\n", "\n\n"),
    ] {
        assert_eq!(render("f", source, &facts()).as_deref(), Ok(wanted), "{source}");
    }
}

#[test]
fn nothing_missing_becomes_nothing() {
    for (source, line, expression, first) in [
        ("a\nb {{ site.prot }}\n", 2, "site.prot", Some("port")),
        ("{{ evn }}", 1, "evn", Some("env")),
        ("\n\n{% if sit.name %}{% endif %}", 3, "sit.name", Some("site")),
        ("{% for m in machine %}{% endfor %}", 1, "machine", Some("machines")),
        ("{{ site.name ~ site.prot }}", 1, "site.name ~ site.prot", Some("port")),
        ("{{ site.port.x.y }}", 1, "site.port.x.y", None),
        ("{{ (machines | first).nmae }}", 1, "(machines | first).nmae", None),
    ] {
        let error = render("vhost.conf.j2", source, &facts()).unwrap_err();
        assert_eq!((error.file.as_str(), error.line), ("vhost.conf.j2", Some(line)), "{error:?}");
        assert_eq!(error.expression.as_deref(), Some(expression), "{source}: {error:?}");
        assert_eq!(error.known.first().map(String::as_str), first, "{source}: {error:?}");
    }
    let error = render("vhost.conf.j2", "{{ site.prot }}", &facts()).unwrap_err();
    assert_eq!(error.to_string(), "vhost.conf.j2:1: `site.prot`: there is no such value");
    assert_eq!(error.hint().unwrap(), "known here: `port`, `name`");
}

#[test]
fn mistakes_and_endless_templates_are_errors() {
    for (source, reason) in [
        ("{{ env", "syntax error: unexpected end of input, expected end of variable block"),
        ("{{ env | shout }}", "unknown filter: filter shout is unknown"),
        ("{% include '/etc/passwd' %}", ""),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "the template does not come to an end",
        ),
    ] {
        let error = render("f", source, &facts()).unwrap_err();
        assert!(error.reason.contains(reason), "{error:?}");
    }
}

#[test]
fn paths_stay_below_their_folder() {
    assert_eq!(render_path("etc/{{ site.name }}.conf", &facts()).as_deref(), Ok("etc/www.conf"));
    let facts = json!({ "up": "../x", "root": "/etc", "empty": "", "line": "a\nb" });
    for path in ["{{ up }}", "a/{{ up }}", "{{ root }}/x", "{{ empty }}", "a/{{ empty }}/b", "a/{{ empty }}", "./a", "{{ line }}"]
    {
        let error = render_path(path, &facts).unwrap_err();
        assert!(error.to_string().contains("this renders to the path"), "{error}");
    }
    assert!(render_path("{{ nope }}", &facts).unwrap_err().expression.is_some());
}

proptest! {
    #[test]
    fn arbitrary_templates_never_panic(source in any::<String>(), inner in "[a-z.|()\\[\\]'0-9+*%~ ]{0,30}") {
        let _ = render("f", &source, &facts());
        let _ = render("f", &format!("{{{{ {inner} }}}}"), &facts());
        let _ = render_path(&source, &facts());
    }

    #[test]
    fn text_without_holes_is_itself(source in "[^{}#%\r]*") {
        prop_assert_eq!(render("f", &source, &facts()), Ok(source));
    }
}

#[test]
fn secrets_are_there_where_they_are_given() {
    let secret: Secret = std::sync::Arc::new(|name| format!("the {name} one"));
    let text = render_with("f", "mysql://{{ site.name }}:{{ secret('db') }}@db", &facts(), &secret);
    assert_eq!(text.as_deref(), Ok("mysql://www:the db one@db"));
    let error = render_with("f", "{{ secret() }}", &facts(), &secret).unwrap_err();
    assert!(error.reason.contains("missing argument"), "{error:?}");
    let error = render("f", "{{ secret('db') }}", &facts()).unwrap_err();
    assert!(error.reason.contains("secret is unknown"), "{error:?}");
}

#[test]
fn a_text_without_end_ends() {
    let facts = json!({ "word": "x".repeat(1 << 20) });
    let whole = render("a.j2", "{% for _ in range(10) %}{{ word }}{% endfor %}", &facts).unwrap();
    assert_eq!(whole.len(), 10 << 20);
    let error = render("a.j2", "{% for _ in range(100000) %}{{ word }}{% endfor %}", &facts).unwrap_err();
    assert!(error.to_string().ends_with("its text becomes longer than 16 MiB"), "{error}");
}
