//! Commands that change something: what they ask of the director, and what they say.

mod fake;

use fake::{Fake, done, error, example, ok, run_with_input, with_config};
use holdfast_schema::admin::{ErrorCode, NodeAdded};
use holdfast_schema::config::reference::EXAMPLE_CLUSTER;
use serde_json::{Value, json};

/// The configuration that the last PUT asked for.
fn put(fake: &Fake) -> Value {
    let seen = fake.seen();
    let last = seen.last().unwrap();
    assert_eq!(last.line(), "PUT /v1/config");
    last.body.clone()
}

#[test]
fn a_cluster_is_begun() {
    let fake = Fake::always(|| done(1, "cluster 0123 begun with 8 shards"));
    let out = fake.run(&["cluster", "init", "--shards", "8"]).ok();
    assert!(out.starts_with("cluster 0123 begun with 8 shards\nnext: "), "{out}");
    assert_eq!(fake.seen()[0].line(), "POST /v1/cluster/init");
    assert_eq!(fake.seen()[0].body, json!({ "shards": 8 }));
    fake.run(&["cluster", "init"]).ok();
    assert_eq!(fake.seen()[1].body, json!({ "shards": 16 }));
}

#[test]
fn a_node_is_added_with_token_and_command() {
    let fake = Fake::always(|| {
        ok(&NodeAdded {
            name: "d2".into(),
            token: "hfj1-secret".into(),
            command: "holdfastd --config /etc/holdfast/node.toml --join hfj1-secret".into(),
            expires_in_s: 1_800,
        })
    });
    let out = fake.run(&["node", "add", "d2", "--expires", "30m"]).ok();
    assert!(
        out.contains("\n  holdfastd --config /etc/holdfast/node.toml --join hfj1-secret\n"),
        "{out}"
    );
    assert!(out.contains("HOLDFAST_JOIN_TOKEN=hfj1-secret holdfastd"), "{out}");
    assert!(out.contains("It works once and for 30m."), "{out}");
    assert_eq!(fake.seen()[0].line(), "POST /v1/nodes");
    assert_eq!(fake.seen()[0].body, json!({ "name": "d2", "expires_in_s": 1_800 }));
    assert_eq!(fake.json(&["node", "add", "d2"]).value()["token"], "hfj1-secret");
    assert_eq!(fake.seen()[1].body["expires_in_s"], 3_600);
}

#[test]
fn nodes_are_undrained_and_removed() {
    let fake = Fake::always(|| done(3, "so it is"));
    assert_eq!(fake.run(&["node", "undrain", "d2"]).ok(), "so it is\n");
    fake.run(&["node", "remove", "d2"]).ok();
    fake.run(&["node", "remove", "d2", "--force", "the machine burnt down"]).ok();
    assert_eq!(
        fake.lines(),
        ["POST /v1/nodes/d2/undrain", "DELETE /v1/nodes/d2", "DELETE /v1/nodes/d2"]
    );
    assert_eq!(fake.seen()[1].body, json!({}));
    assert_eq!(fake.seen()[2].body, json!({ "force": "the machine burnt down" }));
}

#[test]
fn listeners_are_added_changed_and_removed() {
    let fake = with_config(example(), 0);
    let out = fake
        .run(&[
            "listener",
            "add",
            "dns",
            "--vip",
            "203.0.113.53",
            "--port",
            "53",
            "--protocol",
            "udp",
            "--group",
            "web",
            "--replicate-after",
            "never",
            "--idle-timeout",
            "30s",
            "--new-udp",
            "ask",
            "--mode",
            "full-nat",
            "--scheduler",
            "maglev",
        ])
        .ok();
    assert_eq!(out, "listener dns added (revision 8)\n");
    let change = put(&fake);
    assert_eq!(change["expected_revision"], 7);
    assert_eq!(change.get("force"), None);
    assert_eq!(
        change["spec"]["listeners"][1],
        json!({
            "name": "dns", "vip": "203.0.113.53", "port": 53, "protocol": "udp", "mode": "full-nat",
            "group": "web", "replicate_after": "never", "idle_timeout_ms": 30_000,
            "unknown_session": "drop", "new_udp": "ask",
        })
    );
    fake.run(&["listener", "set", "web", "--replicate-after", "0", "--unknown-session", "drop"])
        .ok();
    let web = put(&fake)["spec"]["listeners"][0].clone();
    assert_eq!((&web["replicate_after"], &web["port"]), (&json!({ "millis": 0 }), &json!(443)));
    assert_eq!(web["unknown_session"], "drop");
    fake.run(&["listener", "set", "web", "--vip", "203.0.113.11", "--port", "444"]).ok();
    assert_eq!(put(&fake)["spec"]["listeners"][0]["port"], 444);
    let same = fake.run(&["listener", "set", "web", "--port", "444"]).ok();
    assert_eq!(same, "listener web changed: nothing to change\n");
    let done = fake.json(&["listener", "remove", "dns", "--force", "no more"]).value();
    assert_eq!(done["revision"], 11);
    assert_eq!(put(&fake)["force"], "no more");
    assert_eq!(put(&fake)["spec"]["listeners"].as_array().unwrap().len(), 1);
}

#[test]
fn groups_and_backends_are_added_changed_and_removed() {
    let fake = with_config(example(), 0);
    let ran = fake.run(&[
        "group",
        "add",
        "api",
        "--health",
        "http",
        "--path",
        "/up",
        "--interval",
        "500ms",
        "--rise",
        "1",
    ]);
    assert_eq!(ran.out, "group api added (revision 8)\n");
    assert!(ran.err.contains("note: group \"api\" has no backends"), "{}", ran.err);
    let health = put(&fake)["spec"]["groups"][1]["health"].clone();
    assert_eq!(
        health["check"],
        json!({ "type": "http", "port": null, "path": "/up", "host": null, "status": null })
    );
    assert_eq!((&health["interval_ms"], &health["timeout_ms"]), (&json!(500), &json!(500)));
    assert_eq!(
        fake.run(&["backend", "add", "api", "a1", "10.0.1.1:80", "--weight", "5"]).ok(),
        "backend api/a1 added (revision 9)\n"
    );
    let a1 = || put(&fake)["spec"]["groups"][1]["backends"][0].clone();
    assert_eq!(
        a1(),
        json!({ "name": "a1", "address": "10.0.1.1:80", "weight": 5, "draining": false })
    );
    fake.run(&["backend", "set", "api", "a1", "--weight", "50"]).ok();
    assert_eq!(a1()["weight"], 50);
    fake.run(&["backend", "drain", "web", "web-2"]).ok();
    assert_eq!(put(&fake)["spec"]["groups"][0]["backends"][1]["draining"], true);
    fake.run(&["backend", "undrain", "web", "web-2"]).ok();
    assert_eq!(put(&fake)["spec"]["groups"][0]["backends"][1]["draining"], false);
    fake.run(&["backend", "remove", "web", "web-2", "--force", "gone"]).ok();
    assert_eq!(put(&fake)["force"], "gone");
    fake.run(&["group", "set", "api", "--health", "tcp", "--health-port", "81", "--fall", "9"])
        .ok();
    let health = put(&fake)["spec"]["groups"][1]["health"].clone();
    assert_eq!(
        (&health["check"], &health["fall"]),
        (&json!({ "type": "tcp", "port": 81 }), &json!(9))
    );
    fake.run(&["group", "set", "api", "--health", "none"]).ok();
    assert_eq!(put(&fake)["spec"]["groups"][1]["health"]["check"], json!({ "type": "none" }));
    fake.run(&["group", "remove", "api"]).ok();
    assert_eq!(put(&fake)["spec"]["groups"].as_array().unwrap().len(), 1);
}

#[test]
fn what_does_not_exist_or_exists_already_is_said() {
    let fake = with_config(example(), 0);
    for (args, message) in [
        (
            &["listener", "remove", "wbe"][..],
            "there is no listener \"wbe\"\n hint: did you mean \"web\"?",
        ),
        (
            &["listener", "set", "x", "--port", "1"],
            "there is no listener \"x\"\n hint: there is web",
        ),
        (&["group", "remove", "api"], "there is no group \"api\""),
        (&["backend", "drain", "web", "web-7"], "there is no backend of group web \"web-7\""),
        (&["backend", "add", "api", "a", "10.0.0.1:80"], "there is no group \"api\""),
        (&["group", "add", "web"], "there is a group \"web\" already"),
        (
            &["backend", "add", "web", "web-1", "10.0.0.1:80"],
            "there is a backend \"web/web-1\" already",
        ),
        (
            &["listener", "add", "web", "--vip", "203.0.113.1", "--port", "1", "--group", "web"],
            "there is a listener \"web\" already\n hint: change it with `holdfast listener set web`",
        ),
    ] {
        let err = fake.run(args).failed(1);
        assert!(err.contains(message), "{args:?}: {err}");
    }
    let err = fake.run(&["group", "remove", "web"]).failed(6);
    assert!(err.contains("group \"web\" is used by listener web"), "{err}");
    assert!(fake.lines().iter().all(|line| line == "GET /v1/config"), "nothing was changed");
}

#[test]
fn a_change_that_contradicts_the_rest_is_not_sent() {
    let fake = with_config(example(), 0);
    let add = |vip: &str, port: &str, group: &str| {
        fake.run(&["listener", "add", "two", "--vip", vip, "--port", port, "--group", group])
            .failed(1)
    };
    assert!(add("198.51.100.3", "80", "web").contains("lies in the LIP pool (198.51.100.0/28)"));
    assert!(add("203.0.113.10", "443", "web").contains("are both tcp 203.0.113.10:443"));
    assert!(add("203.0.113.10", "80", "wev").contains("(did you mean \"web\"?)"));
    assert!(add("2001:db8::1", "80", "web").contains("IPv6 listeners are not there yet"));
    let err = fake.json(&["backend", "add", "web", "b", "10.0.0.11:443"]).failed(1);
    let err: Value = serde_json::from_str(&err).unwrap();
    assert_eq!((&err["code"], err["errors"].as_array().unwrap().len()), (&json!("invalid"), 1));
    assert!(fake.lines().iter().all(|line| line == "GET /v1/config"), "nothing was changed");
}

#[test]
fn old_mistakes_do_not_block_other_changes() {
    let mut spec = example();
    spec.lips_per_director = 0;
    let fake = with_config(spec, 0);
    fake.run(&["backend", "drain", "web", "web-1"]).ok();
}

#[test]
fn granular_changes_are_tried_again_when_somebody_else_was_faster() {
    let fake = with_config(example(), 3);
    assert_eq!(
        fake.run(&["backend", "set", "web", "web-1", "--weight", "1"]).ok(),
        "backend web/web-1 has weight 1 (revision 11)\n"
    );
    assert_eq!(fake.lines().len(), 8);
    let fake = with_config(example(), 99);
    let err = fake.run(&["backend", "set", "web", "web-1", "--weight", "1"]).failed(6);
    assert!(err.contains("the configuration is at revision"), "{err}");
    assert_eq!(fake.lines().len(), 10, "five times read and written, then given up");
}

const OTHER: &str = r#"kind = "cluster"
lip-pool = ["198.51.100.0/28"]
[[listener]]
name = "web"
vip = "203.0.113.10"
port = 80
group = "web"
[[group]]
name = "web"
[[group.backend]]
name = "web-1"
address = "10.0.0.11:443"
"#;

const DIFFERENCE: &str = "\
~ group web          health: http :8080 /healthz every 2s within 1s, rise 2 fall 3 -> tcp every 2s within 1s, rise 2 fall 3
- backend web/web-2  10.0.0.12:443 weight 50
~ listener web       port: 443 -> 80
0 to add, 2 to change, 1 to remove
";

fn apply(fake: &Fake, text: &str, more: &[&str]) -> fake::Ran {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    std::fs::write(&file, text).unwrap();
    fake.run(&[&["apply", "-f", file.to_str().unwrap()], more].concat())
}

#[test]
fn apply_shows_the_difference_and_makes_it_so() {
    let fake = with_config(example(), 0);
    let dry = apply(&fake, OTHER, &["--dry-run"]).ok();
    assert_eq!(dry, format!("{DIFFERENCE}nothing was changed (revision 7)\n"));
    assert_eq!(fake.lines(), ["GET /v1/config"]);
    let out = apply(&fake, OTHER, &["--force", "tested"]).ok();
    assert_eq!(out, format!("{DIFFERENCE}applied (revision 8)\n"));
    assert_eq!(put(&fake)["force"], "tested");
    assert_eq!(apply(&fake, OTHER, &[]).ok(), "nothing to change (revision 8)\n");
    let out = apply(&fake, EXAMPLE_CLUSTER, &["--output", "json", "--yes"]).value();
    assert_eq!((&out["revision"], &out["done"]["revision"]), (&json!(9), &json!(9)));
    assert_eq!(
        out["changes"][1],
        json!({ "change": "added", "what": "backend", "name": "web/web-2", "details": ["10.0.0.12:443 weight 50"] })
    );
    let input = run_with_input(&fake.socket(), &["apply", "-f", "-"], OTHER).ok();
    assert!(input.ends_with("applied (revision 10)\n"), "{input}");
}

#[test]
fn apply_refuses_a_wrong_file_and_passes_refusals_on() {
    let fake = with_config(example(), 0);
    let err = apply(&fake, &OTHER.replace("port = 80", "prot = 80"), &[]).failed(1);
    assert!(err.contains("c.toml:6:1: unknown key `prot`"), "{err}");
    assert!(err.contains("hint: did you mean `port`?"), "{err}");
    assert!(fake.lines().is_empty(), "the director was not even asked");
    let err = fake.run(&["apply", "-f", "/nonexistent/c.toml"]).failed(1);
    assert!(err.contains("cannot read /nonexistent/c.toml"), "{err}");
    let conflict = with_config(example(), 99);
    let ran = apply(&conflict, OTHER, &[]);
    assert_eq!(ran.code, 6);
    assert!(ran.err.contains("apply it again"), "{}", ran.err);
    assert_eq!(conflict.lines().len(), 2, "what was shown is not what would be changed: no retry");
    let live = Fake::start(|seen| match seen.method.as_str() {
        "GET" => ok(&json!({ "revision": 7, "spec": example() })),
        _ => error(
            ErrorCode::Precondition,
            "backend web/web-2 has 12 sessions",
            "drain it, or --force REASON",
        ),
    });
    let ran = apply(&live, OTHER, &[]);
    assert_eq!((ran.code, ran.out.as_str()), (6, DIFFERENCE));
    assert_eq!(
        ran.err,
        "error: backend web/web-2 has 12 sessions\n hint: drain it, or --force REASON\n"
    );
}
