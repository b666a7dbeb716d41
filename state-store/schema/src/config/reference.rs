//! Prints the reference of both files (docs/configuration.md) from the key table.

use std::fmt::Write;

use super::format_millis;
use super::keys::{
    ANNOUNCE, BACKEND, CLUSTER, GROUP, HEALTH, Key, Kind, LISTENER, NODE, Presence, Section,
};

const HEAD: &str = "\
# Configuration

<!-- Generated from the key table of `schema::config`. Do not edit; write it anew with
     HOLDFAST_WRITE_DOCS=1 cargo test -p holdfast-schema --test reference -->

Holdfast reads two kinds of file, both TOML, told apart by their first key `kind`: a *node file*
says what one machine is, a *cluster file* says what the cluster serves. Unknown keys are errors.
`holdfast config check FILE` checks either kind without touching anything and reports every error
with its line, the cause and a hint.

Durations are texts with a unit: `\"500ms\"`, `\"3s\"`, `\"15m\"`, `\"1h\"`, `\"2d\"`, `\"1m30s\"`; `0` needs none.
Names have 1 to 63 letters, digits, `.`, `_` or `-` and begin with a letter or digit.
";

/// The text of docs/configuration.md.
pub fn markdown() -> String {
    let mut out = String::from(HEAD);
    out.push_str("\n## The node file\n\n```toml\n");
    out.push_str(EXAMPLE_NODE);
    out.push_str("```\n");
    for section in [&NODE, &ANNOUNCE] {
        print(&mut out, section);
    }
    out.push_str("\n## The cluster file\n\n```toml\n");
    out.push_str(EXAMPLE_CLUSTER);
    out.push_str("```\n");
    for section in [&CLUSTER, &LISTENER, &GROUP, &HEALTH, &BACKEND] {
        print(&mut out, section);
    }
    out
}

/// A small node file; a test reads it.
pub const EXAMPLE_NODE: &str = r#"kind = "node"
id = "d1"
peer-address = "192.0.2.11:7411"
interface = "eth1"
metrics-address = "192.0.2.11:9411"

[announce]
bird-socket = "/run/bird/bird.ctl"
"#;

/// A small cluster file; a test reads it.
pub const EXAMPLE_CLUSTER: &str = r#"kind = "cluster"
lip-pool = ["198.51.100.0/28"]

[[listener]]
name = "web"
vip = "203.0.113.10"
port = 443
group = "web"

[[group]]
name = "web"
health = { type = "http", path = "/healthz", port = 8080, interval = "2s" }

[[group.backend]]
name = "web-1"
address = "10.0.0.11:443"

[[group.backend]]
name = "web-2"
address = "10.0.0.12:443"
weight = 50
"#;

fn print(out: &mut String, section: &Section) {
    let title = match section.title {
        "" => "Top of the file".to_owned(),
        title => format!("`{title}`"),
    };
    let _ = write!(out, "\n### {title}\n\n{}\n\n", section.intro);
    out.push_str("| key | value | when absent | meaning |\n|---|---|---|---|\n");
    for key in section.keys {
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {} |",
            key.name,
            kind(&key.kind),
            absent(key),
            key.meaning
        );
    }
    let mut later: Vec<String> =
        section.refused.iter().map(|r| format!("`{}`: {}", r.name, r.instead)).collect();
    for key in section.keys {
        if let Kind::OneOf(_, refused) = key.kind {
            later.extend(
                refused.iter().map(|r| format!("`{} = \"{}\"`: {}", key.name, r.name, r.instead)),
            );
        }
    }
    if !later.is_empty() {
        let _ = writeln!(out, "\nKnown, but refused by name because it is not there yet:\n");
        for line in later {
            let _ = writeln!(out, "- {line}.");
        }
    }
}

fn kind(kind: &Kind) -> String {
    match kind {
        Kind::Name => "name".to_owned(),
        Kind::Text => "text".to_owned(),
        Kind::Bool => "`true` or `false`".to_owned(),
        Kind::Integer(range) => format!("number, {} to {}", range.start(), range.end()),
        Kind::Millis(range) => {
            let (from, to) = (format_millis(*range.start()), format_millis(*range.end()));
            format!("duration, {from} to {to}")
        }
        Kind::MillisOrNever(range) => {
            let (from, to) = (format_millis(*range.start()), format_millis(*range.end()));
            format!("duration, {from} to {to}, or `\"never\"`")
        }
        Kind::OneOf(words, _) => {
            words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", ")
        }
        Kind::Address => "IPv4 address".to_owned(),
        Kind::Socket => "`\"ADDRESS:PORT\"`".to_owned(),
        Kind::Prefixes => "list of prefixes".to_owned(),
        Kind::Path => "absolute path".to_owned(),
        Kind::Interface => "interface".to_owned(),
        Kind::Table(section) => format!("table: `{}`", section.title),
        Kind::Tables(section) => format!("tables: `{}`", section.title),
    }
}

fn absent(key: &Key) -> String {
    match key.presence {
        Presence::Required => "an error".to_owned(),
        Presence::Default(text) => format!("`{text}`"),
        Presence::Absent(text) => text.to_owned(),
    }
}
