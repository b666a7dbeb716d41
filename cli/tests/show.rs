//! What the commands that only look show, as a whole.

mod fake;

use fake::{Fake, example, healthy, ok, session, status, with_config};
use holdfast_schema::admin::{SessionCount, SessionList, Status};
use holdfast_schema::config::parse_cluster;
use serde_json::json;

fn with_status(status: Status) -> Fake {
    Fake::start(move |seen| {
        assert_eq!(seen.line(), "GET /v1/status");
        ok(&status)
    })
}

#[test]
fn status_shows_members_groups_backends_and_what_is_wrong() {
    let expected = "\
director  d1, holdfastd 0.1.0, skb XDP, ready
cluster   0123456789abcdef0123456789abcdef, revision 7, membership epoch 3, leader d1
state     not settled
planned   drain of d2
groups    3 (d1 leads 2), 42 replicated sessions; WITHOUT LEADER: shard-1; shard-0 is 2 entries behind here

NODE  ADDRESS         STATE     UP   READY  ANNOUNCED  SESSIONS  VOTES  LIPS
d1*   192.0.2.1:7411  active    yes  yes    announced       100      2  198.51.100.1
d2    192.0.2.2:7411  draining  no   -      -                 -      0  198.51.100.2

BACKEND    ADDRESS        WEIGHT  HEALTH               WHY
web/web-1  10.0.0.11:443     100  healthy              -
web/web-2  10.0.0.11:443     100  UNHEALTHY, draining  connection refused
web/web-3  10.0.0.11:443     100  unknown              -

problem: not settled: d2 is draining
problem: not settled: shard-1 has no leader
warning: huge pages are not available
";
    let fake = with_status(status());
    assert_eq!(fake.run(&["status"]).ok(), expected);
    let groups = fake.run(&["status", "--groups"]).ok();
    assert!(
        groups.contains("shard-0     d1         3        120      118        40  d1      d2"),
        "{groups}"
    );
    assert_eq!(fake.json(&["status"]).value(), serde_json::to_value(status()).unwrap());
}

#[test]
fn status_check_judges() {
    let fake = with_status(status());
    let ran = fake.run(&["status", "--check"]);
    assert_eq!(ran.code, 5);
    assert_eq!(
        ran.err,
        "error: not settled: d2 is draining; not settled: shard-1 has no leader\n hint: `holdfast status` shows the whole\n"
    );
    with_status(healthy()).run(&["status", "--check"]).ok();
    let mut lonely = healthy();
    lonely.cluster = None;
    lonely.phase = "waiting".into();
    let fake = with_status(lonely);
    assert!(fake.run(&["status"]).ok().contains("none yet: `holdfast cluster init`"));
    assert_eq!(fake.run(&["status", "--check"]).code, 5);
    let mut unready = healthy();
    unready.not_ready = vec!["kernel rules are missing".into()];
    let ran = with_status(unready).json(&["status", "--check"]);
    assert_eq!(ran.code, 5);
    let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!(error["code"], "unhealthy");
    assert_eq!(error["message"], "d1 is not ready: kernel rules are missing");
}

#[test]
fn nodes_and_backends_are_listed() {
    let fake = with_status(status());
    let nodes = fake.run(&["node", "list"]).ok();
    assert!(nodes.starts_with("NODE  ADDRESS"), "{nodes}");
    assert_eq!(nodes.lines().count(), 3);
    assert_eq!(fake.json(&["node", "list"]).value()["nodes"][1]["name"], "d2");
    let backends = fake.run(&["backend", "list"]).ok();
    assert_eq!(backends.lines().count(), 4);
    assert_eq!(fake.run(&["backend", "list", "api"]).ok().lines().count(), 1);
    let shown = fake.json(&["backend", "list", "web"]).value();
    assert_eq!(shown["backends"].as_array().unwrap().len(), 3);
    assert_eq!(shown["backends"][1]["reason"], "connection refused");
    let mut lonely = status();
    lonely.cluster = None;
    let fake = with_status(lonely);
    for command in [["node", "list"], ["backend", "list"]] {
        let err = fake.run(&command).failed(5);
        assert!(err.contains("director d1 belongs to no cluster yet"), "{err}");
    }
}

#[test]
fn the_configuration_is_shown_as_tables_and_as_a_file() {
    let fake = with_config(example(), 0);
    assert_eq!(
        fake.run(&["listener", "list"]).ok(),
        "\
LISTENER  PROTOCOL  VIP               GROUP  MODE      REPLICATE AFTER  IDLE TIMEOUT  UNKNOWN
web       tcp       203.0.113.10:443  web    full-nat  3s               15m           reset
"
    );
    assert_eq!(
        fake.run(&["group", "list"]).ok(),
        "\
GROUP  BACKENDS  HEALTH CHECK                                           LISTENERS
web           2  http :8080 /healthz every 2s within 1s, rise 2 fall 3  web
"
    );
    let listeners = fake.json(&["listener", "list"]).value();
    assert_eq!(
        (listeners["revision"].as_u64(), &listeners["listeners"][0]["name"]),
        (Some(7), &json!("web"))
    );
    assert_eq!(fake.json(&["group", "list"]).value()["groups"][0]["backends"][1]["weight"], 50);
    let file = fake.run(&["config", "show"]).ok();
    assert!(file.starts_with("# revision 7\nkind = \"cluster\"\n"), "{file}");
    assert_eq!(parse_cluster(&file, "shown"), Ok(example()));
    assert_eq!(fake.json(&["config", "show"]).value()["revision"], 7);
}

#[test]
fn sessions_are_listed_and_filtered() {
    let fake = Fake::start(|_| {
        ok(&SessionList {
            sessions: vec![session(40_000), session(41_000)],
            truncated: true,
            missing: vec!["d3".into()],
        })
    });
    let ran = fake.run(&[
        "session",
        "list",
        "--client",
        "192.0.2.77:40000",
        "--vip",
        "203.0.113.10",
        "--backend",
        "web/web-1",
        "--state",
        "established",
        "--limit",
        "2",
    ]);
    assert_eq!(ran.code, 0);
    assert_eq!(
        ran.out,
        "\
CLIENT            VIP               PROTOCOL  LISTENER  BACKEND    STATE        DIRECTOR  REPLICATED    AGE   IDLE
192.0.2.77:40000  203.0.113.10:443  tcp       web       web/web-1  established  d1        yes         7m07s  250ms
192.0.2.77:41000  203.0.113.10:443  tcp       web       web/web-1  established  d1        yes         7m07s  250ms
"
    );
    assert_eq!(
        ran.err,
        "note: there are more than these 2; filter with --client, --vip, --backend, --state, or raise --limit\n\
         note: d3 did not answer; their sessions may be missing\n"
    );
    assert_eq!(
        fake.lines(),
        [
            "GET /v1/sessions?client=192.0.2.77%3A40000&vip=203.0.113.10&backend=web%2Fweb-1&state=established&limit=2"
        ]
    );
    let shown = fake.json(&["session", "list", "--client", "192.0.2.77:40000"]).value();
    assert_eq!(shown["sessions"][0]["director"], "d1");
    assert_eq!(shown["missing"][0], "d3");
}

#[test]
fn a_session_is_shown_with_everything_known_of_it() {
    let fake = Fake::start(|_| {
        ok(&SessionList { sessions: vec![session(40_000)], truncated: false, missing: vec![] })
    });
    let expected = "\
tcp 192.0.2.77:40000 > 203.0.113.10:443
  state        established
  listener     web
  backend      web/web-1, 10.0.0.11:443
  LIP          198.51.100.1:2048
  director     d1
  replicated   yes
  held by      d1, d2
  age          7m07s
  client       last packet 1s ago
  backend      last packet 250ms ago
  idle timeout 15m
  incarnation  4294967301 by director 1
";
    assert_eq!(fake.run(&["session", "show", "192.0.2.77:40000"]).ok(), expected);
    assert_eq!(fake.lines(), ["GET /v1/sessions?client=192.0.2.77%3A40000"]);
    let nobody =
        Fake::start(|_| ok(&SessionList { sessions: vec![], truncated: false, missing: vec![] }));
    let err = nobody.run(&["session", "show", "192.0.2.9"]).failed(1);
    assert!(err.starts_with("error: no director knows a session of 192.0.2.9\n"), "{err}");
    let list = nobody.run(&["session", "list"]).ok();
    assert_eq!(list.lines().count(), 1);
}

#[test]
fn sessions_are_counted() {
    let fake = Fake::start(|_| {
        ok(&SessionCount {
            total: 1_234,
            by_director: vec![("d1".into(), 1_200), ("d2".into(), 34)],
            by_state: vec![("established".into(), 1_234)],
            missing: vec![],
        })
    });
    let expected = "\
1234 sessions

DIRECTOR  SESSIONS
d1            1200
d2              34

STATE        SESSIONS
established      1234
";
    assert_eq!(fake.run(&["session", "count"]).ok(), expected);
    assert_eq!(fake.run(&["session", "count", "--backend", "web/b"]).ok(), expected);
    assert_eq!(fake.lines(), ["GET /v1/sessions/count", "GET /v1/sessions/count?backend=web%2Fb"]);
    assert_eq!(fake.json(&["session", "count"]).value()["total"], 1_234);
}

#[test]
fn fields_of_a_newer_director_are_passed_on() {
    let fake = Fake::start(|_| {
        let mut json = serde_json::to_value(healthy()).unwrap();
        json["moon"] = json!("full");
        ok(&json)
    });
    assert_eq!(fake.json(&["status"]).value()["moon"], "full");
    fake.run(&["status"]).ok();
}
