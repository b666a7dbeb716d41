//! What operators read when a configuration file is wrong: every error at once, each with its
//! place, the cause and a hint. The texts are compared as a whole.

use holdfast_schema::config::{
    DEFAULT_ADMIN_SOCKET, FileKind, HealthSpec, check_cluster, kind_of, limits, parse_cluster,
    parse_node, reference,
};

fn cluster_errors(text: &str) -> String {
    parse_cluster(text, "c.toml").expect_err("the file is wrong").to_string()
}

fn node_errors(text: &str) -> String {
    parse_node(text, "n.toml").expect_err("the file is wrong").to_string()
}

const GROUP: &str =
    "[[group]]\nname = \"web\"\n[[group.backend]]\nname = \"b1\"\naddress = \"10.0.0.1:80\"\n";

/// A cluster file with this line in its only listener.
fn listener_with(line: &str) -> String {
    format!(
        "kind = \"cluster\"\nlip-pool = [\"198.51.100.0/28\"]\n[[listener]]\nname = \"web\"\n\
         vip = \"203.0.113.10\"\nport = 80\ngroup = \"web\"\n{line}\n{GROUP}"
    )
}

#[test]
fn all_errors_come_at_once_with_line_and_hint() {
    let text = r#"kind = "cluster"
lip-pool = ["198.51.100.1/28", "198.51.100.0/30"]
lips_per_director = 2
[[listener]]
name = "web"
vip = "203.0.113.10/32"
port = 70000
protocol = "tpc"
group = "web"
mode = "dnat"
replicate-after = 3
idle-timeout = "soon"
proxy-protocol = true
[[group]]
name = "web"
kind = "virtual"
health = { type = "tcp", path = "/" }
[[group.backend]]
name = "b 1"
weight = "5"
"#;
    let expected = r#"c.toml:2:13: `lip-pool` holds a wrong prefix: `198.51.100.1/28` has bits behind its prefix length; did you mean `198.51.100.0/28`?
   2 | lip-pool = ["198.51.100.1/28", "198.51.100.0/30"]
     |             ^^^^^^^^^^^^^^^^^
  hint: for example "198.51.100.0/28"
c.toml:3:1: unknown key `lips_per_director`
   3 | lips_per_director = 2
     | ^^^^^^^^^^^^^^^^^
  hint: did you mean `lips-per-director`?
c.toml:6:7: `vip` in [[listener]] "web" is "203.0.113.10/32", which is no IP address
   6 | vip = "203.0.113.10/32"
     |       ^^^^^^^^^^^^^^^^^
  hint: one address, without a prefix length: "203.0.113.10"
c.toml:7:8: `port` in [[listener]] "web" is 70000; it must be a whole number from 1 to 65535
   7 | port = 70000
     |        ^^^^^
c.toml:8:12: `protocol` in [[listener]] "web" cannot be "tpc"
   8 | protocol = "tpc"
     |            ^^^^^
  hint: did you mean "tcp"?
c.toml:10:8: `mode` in [[listener]] "web" = "dnat" is not there yet
  10 | mode = "dnat"
     |        ^^^^^^
  hint: only `full-nat` forwards so far
c.toml:11:19: `replicate-after` in [[listener]] "web" is 3 without a unit
  11 | replicate-after = 3
     |                   ^
  hint: "3s" or "3ms"?
c.toml:12:16: `idle-timeout` in [[listener]] "web" is "soon": a duration is a whole number and a unit (ms, s, m, h, d), such as `500ms`, `3s` or `1m30s`
  12 | idle-timeout = "soon"
     |                ^^^^^^
c.toml:13:1: `proxy-protocol` in [[listener]] "web" is not there yet
  13 | proxy-protocol = true
     | ^^^^^^^^^^^^^^
  hint: backends see the LIP as the client so far; leave the key away
c.toml:16:8: `kind` in [[group]] "web" = "virtual" is not there yet
  16 | kind = "virtual"
     |        ^^^^^^^^^
  hint: only `default` groups so far
c.toml:17:33: `path` in health = { ... } in [[group]] "web" means nothing with type = "tcp"
  17 | health = { type = "tcp", path = "/" }
     |                                 ^^^
  hint: did you mean type = "http"?
c.toml:18:1: `address` is missing in [[group.backend]] "b 1" in [[group]] "web"
  18 | [[group.backend]]
     | ^^^^^^^^^^^^^^^^^
  hint: Where it listens.
c.toml:19:8: `name` in [[group.backend]] "b 1" in [[group]] "web" is "b 1"; a name has 1 to 63 letters, digits, `.`, `_` or `-` and begins with a letter or digit
  19 | name = "b 1"
     |        ^^^^^
  hint: for example `web-1`
c.toml:20:10: `weight` in [[group.backend]] "b 1" in [[group]] "web" must be a whole number from 0 to 1000, not a text
  20 | weight = "5"
     |          ^^^
  hint: write it without quotes"#;
    assert_eq!(cluster_errors(text), expected);
}

#[test]
fn errors_between_keys_are_found_beside_errors_of_keys() {
    let text = r#"kind = "cluster"
lip-pool = ["198.51.100.0/28", "198.51.100.8/29"]
[[listener]]
name = "a"
vip = "198.51.100.3"
port = 80
group = "wbe"
[[listener]]
name = "a"
vip = "198.51.100.3"
port = 80
group = "web"
[[listener]]
name = "six"
vip = "2001:db8::1"
port = 0
group = "web"
[[group]]
name = "web"
[[group.backend]]
name = "b"
address = "198.51.100.3:80"
[[group.backend]]
name = "b"
address = "198.51.100.3:80"
"#;
    let found = parse_cluster(text, "c.toml").unwrap_err().0;
    let lines: Vec<(usize, &str)> = found.iter().map(|e| (e.line, e.message.as_str())).collect();
    assert_eq!(
        lines,
        [
            (2, "`lip-pool` holds 198.51.100.8/29 and 198.51.100.0/28, which overlap"),
            (5, "VIP 198.51.100.3 of listener \"a\" lies in the LIP pool (198.51.100.0/28)"),
            (7, "listener \"a\" sends to group \"wbe\", which does not exist"),
            (9, "two listeners are called \"a\""),
            (10, "VIP 198.51.100.3 of listener \"a\" lies in the LIP pool (198.51.100.0/28)"),
            (11, "listeners \"a\" and \"a\" are both tcp 198.51.100.3:80"),
            (16, "`port` in [[listener]] \"six\" is 0; it must be a whole number from 1 to 65535"),
            (22, "backend \"web/b\" is 198.51.100.3:80, but 198.51.100.3 is a VIP"),
            (24, "two backends are called \"web/b\""),
            (25, "backends \"web/b\" and \"web/b\" are both 198.51.100.3:80"),
            (25, "backend \"web/b\" is 198.51.100.3:80, but 198.51.100.3 is a VIP"),
        ]
    );
    assert_eq!(found[2].hint, "did you mean \"web\"?");
}

#[test]
fn features_to_come_are_refused_by_name() {
    for (line, name) in [
        ("mode = \"dnat\"", "dnat"),
        ("mode = \"dsr-l2\"", "dsr-l2"),
        ("mode = \"dsr-tunnel\"", "dsr-tunnel"),
        ("scheduler = \"least-connections\"", "least-connections"),
        ("toa = true", "toa"),
        ("proxy-protocol = \"v2\"", "proxy-protocol"),
    ] {
        let errors = parse_cluster(&listener_with(line), "c.toml").unwrap_err();
        assert_eq!(errors.0.len(), 1, "{errors}");
        assert!(errors.0[0].message.contains("is not there yet"), "{errors}");
        assert!(errors.0[0].message.contains(name), "{errors}");
        assert_eq!(errors.0[0].line, 8);
    }
    let six = listener_with("").replace("203.0.113.10", "2001:db8::10");
    assert_eq!(
        cluster_errors(&six),
        "c.toml:5:7: VIP 2001:db8::10 of listener \"web\": IPv6 listeners are not there yet\n   5 | \
         vip = \"2001:db8::10\"\n     |       ^^^^^^^^^^^^^^\n  hint: an IPv4 VIP, so far"
    );
    for kind in ["virtual", "primary-backup"] {
        let text =
            listener_with("").replace("[[group]]\n", &format!("[[group]]\nkind = \"{kind}\"\n"));
        assert!(cluster_errors(&text).contains(&format!("= \"{kind}\" is not there yet")));
    }
}

#[test]
fn broken_toml_is_reported_with_its_line_and_without_echoes() {
    let text = "kind = \"cluster\"\n[[listener]]\nname = \nvip = 1.2.3.4\nport = 80\ncolour = 1\n";
    let errors = parse_cluster(text, "c.toml").unwrap_err();
    let lines: Vec<usize> = errors.0.iter().map(|e| e.line).collect();
    assert!(lines.contains(&3), "{errors}");
    assert!(lines.contains(&4), "{errors}");
    assert!(lines.contains(&6), "unknown keys are reported all the same: {errors}");
    assert!(errors.0.iter().filter(|e| e.line < 5).all(|e| e.message.starts_with("TOML: ")));
    assert!(!errors.to_string().contains("missing"), "{errors}");
    for text in ["kind = \"cluster\"\n[[listener", "\u{0}", "= 1", "kind", "a = \"\"\"", "[a]\n[a]"]
    {
        assert!(parse_cluster(text, "c.toml").is_err());
        assert!(parse_node(text, "c.toml").is_err());
    }
}

#[test]
fn the_kinds_are_told_apart() {
    assert_eq!(kind_of(reference::EXAMPLE_NODE), Some(FileKind::Node));
    assert_eq!(kind_of(reference::EXAMPLE_CLUSTER), Some(FileKind::Cluster));
    assert_eq!(kind_of("kind = \"cluster\"\nbroken ="), Some(FileKind::Cluster));
    assert_eq!(kind_of("kind = 3"), None);
    assert_eq!(kind_of(""), None);
    assert_eq!(
        node_errors(reference::EXAMPLE_CLUSTER),
        "n.toml:1:8: this is a cluster file, a node file is wanted here\n   1 | kind = \"cluster\"\n     \
         |        ^^^^^^^^^\n  hint: `holdfast apply -f FILE` reads it"
    );
    let errors = cluster_errors("");
    assert!(errors.starts_with("c.toml:1:1: `kind` is missing"), "{errors}");
    assert!(errors.contains("hint: the first line says what the file is"), "{errors}");
}

#[test]
fn node_files_have_defaults_and_bounds() {
    let node = parse_node(reference::EXAMPLE_NODE, "n.toml").unwrap();
    assert_eq!(node.data_dir.to_str(), Some("/var/lib/holdfast"));
    assert_eq!(node.admin_socket.to_str(), Some(DEFAULT_ADMIN_SOCKET));
    assert_eq!((node.workers, node.max_sessions), (1, 1_000_000));
    assert_eq!(node.max_young_sessions, 250_000);
    assert_eq!((node.asks_per_second, node.asks_per_second_and_prefix), (20_000, 5_000));
    assert_eq!((node.guard_timeout_ms, node.udp_ask_ms), (50, 10_000));
    let announce = node.announce.unwrap();
    assert_eq!((announce.device.as_str(), announce.table), ("hf0", 4242));
    assert_eq!(announce.blackhole_table, 4243);

    let text = r#"kind = "node"
id = "-d"
peer-address = "0.0.0.0:7411"
interface = "a-name-that-is-too-long"
admin-socket = "run/x"
metrics-address = "192.0.2.1"
workers = 0
xdp-mode = "native "
guard-timeout = "1h"
max_sessions = 5
[announce]
table = 254
blackhole-table = 254
device = "hf 0"
"#;
    let errors = parse_node(text, "n.toml").unwrap_err();
    let found: Vec<(usize, String)> =
        errors.0.iter().map(|e| (e.line, format!("{} ({})", e.message, e.hint))).collect();
    let expected = [
        (
            2,
            "`id` is \"-d\"; a name has 1 to 63 letters, digits, `.`, `_` or `-` and begins with a letter or digit (for example `web-1`)",
        ),
        (
            3,
            "`peer-address` is 0.0.0.0:7411, which no other director can send to (an address of this machine that the others reach)",
        ),
        (
            4,
            "`interface` is \"a-name-that-is-too-long\", which is no name of an interface (1 to 15 bytes, as `ip link` shows it)",
        ),
        (5, "`admin-socket` is \"run/x\", which is no absolute path (it begins with `/`)"),
        (
            6,
            "`metrics-address` is \"192.0.2.1\", which is no ADDRESS:PORT (add the port: \"192.0.2.1:8080\")",
        ),
        (7, "`workers` is 0; it must be a whole number from 1 to 64 ()"),
        (8, "`xdp-mode` cannot be \"native \" (did you mean \"native\"?)"),
        (9, "`guard-timeout` is 1h; it must be from 10ms to 5s ()"),
        (10, "unknown key `max_sessions` (did you mean `max-sessions`?)"),
        (
            12,
            "`table` in [announce] is 254, one of the kernel's own tables (a table of its own, such as 4242)",
        ),
        (
            13,
            "`blackhole-table` in [announce] is 254, one of the kernel's own tables (a table of its own, such as 4242)",
        ),
        (
            13,
            "`blackhole-table` in [announce] is the same as `table` (BIRD would announce the blackholes; give them another table)",
        ),
        (
            14,
            "`device` in [announce] is \"hf 0\", which is no name of an interface (1 to 15 bytes, as `ip link` shows it)",
        ),
    ];
    let expected: Vec<(usize, String)> = expected.map(|(l, t)| (l, t.to_owned())).into();
    assert_eq!(found, expected);
    let missing = node_errors("kind = \"node\"\n");
    for key in ["id", "peer-address", "interface"] {
        assert!(missing.contains(&format!("`{key}` is missing")), "{missing}");
    }
}

#[test]
fn policies_of_the_other_protocol_are_refused() {
    assert!(
        cluster_errors(&listener_with("new-udp = \"ask\""))
            .contains("means nothing with protocol = \"tcp\"")
    );
    let udp = listener_with("protocol = \"udp\"\nunknown-session = \"reset\"");
    assert!(cluster_errors(&udp).contains("cannot be \"reset\" with protocol = \"udp\""));
    let udp = listener_with("protocol = \"udp\"\nunknown-session = \"drop\"\nnew-udp = \"ask\"");
    assert!(parse_cluster(&udp, "c.toml").is_ok());
}

#[test]
fn health_checks_that_cannot_work_are_refused() {
    let with = |listener: &str, health: &str| {
        listener_with(listener).replace("[[group]]\n", &format!("[[group]]\nhealth = {health}\n"))
    };
    let errors = cluster_errors(&with("protocol = \"udp\"", "{ type = \"http\" }"));
    assert!(
        errors.contains("serves UDP only, but is checked by HTTP on the same port"),
        "{errors}"
    );
    assert!(
        parse_cluster(&with("protocol = \"udp\"", "{ type = \"http\", port = 8080 }"), "").is_ok()
    );
    let errors =
        cluster_errors(&with("", "{ type = \"tcp\", interval = \"1s\", timeout = \"2s\" }"));
    assert!(errors.contains("(2s) is longer than its `interval` (1s)"), "{errors}");
    let errors =
        cluster_errors(&with("", "{ type = \"http\", path = \"/a b\", host = \"x\\ny\" }"));
    assert_eq!(errors.matches("c.toml:10:").count(), 2, "{errors}");
    let short = parse_cluster(&with("", "{ type = \"tcp\", interval = \"200ms\" }"), "").unwrap();
    assert_eq!(short.groups[0].health.timeout_ms, 200, "the default timeout fits the interval");
    let default = parse_cluster(&with("", "{ type = \"tcp\" }"), "").unwrap();
    assert_eq!(default.groups[0].health, HealthSpec::default());
}

#[test]
fn warnings_do_not_refuse() {
    let text = listener_with("protocol = \"udp\"")
        .replace("name = \"b1\"", "name = \"b1\"\nweight = 0")
        + "[[group]]\nname = \"spare\"\n";
    let warnings = check_cluster(&text, "c.toml").unwrap().warnings;
    let found: Vec<(usize, &str)> = warnings.iter().map(|w| (w.line, w.message.as_str())).collect();
    assert_eq!(
        found,
        [
            (10, "every backend of group \"web\" has weight 0 or drains"),
            (
                9,
                "group \"web\" serves UDP only, but is checked by TCP connections to the same port"
            ),
            (16, "group \"spare\" has no backends"),
            (16, "no listener uses group \"spare\""),
        ]
    );
}

#[test]
fn sizes_are_limited() {
    let mut text = String::from("kind = \"cluster\"\nlip-pool = [\"10.0.0.0/8\"]\n");
    for i in 0..=limits::LISTENERS {
        let port = i + 1;
        text += &format!(
            "[[listener]]\nname = \"l{i}\"\nvip = \"203.0.113.10\"\nport = {port}\ngroup = \"web\"\n"
        );
    }
    let errors = cluster_errors(&(text + GROUP));
    assert!(errors.contains("1001 listeners; a cluster has 1000 at the most"), "{errors}");
    assert!(errors.contains("`lip-pool` has 16777216 addresses; 65536 at the most"), "{errors}");
    let huge = format!("kind = \"cluster\"\n# {}", "x".repeat(limits::FILE_BYTES));
    assert!(cluster_errors(&huge).contains("a configuration has 8388608 at the most"));
}

#[test]
fn a_large_file_is_read_in_a_moment() {
    let mut text = listener_with("");
    for i in 2..=limits::BACKENDS {
        let (a, b) = (i / 250, 1 + i % 250);
        text += &format!("[[group.backend]]\nname = \"b{i}\"\naddress = \"10.1.{a}.{b}:80\"\n");
    }
    let spec = parse_cluster(&text, "c.toml").unwrap();
    assert_eq!(spec.groups[0].backends.len(), limits::BACKENDS);
    assert_eq!(parse_cluster(&spec.to_toml(), "again").unwrap(), spec);
}
