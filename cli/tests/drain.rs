//! `holdfast node drain`: progress, deadline, interruption.

mod fake;

use std::sync::Mutex;

use fake::{Fake, Reply, error, ran};
use holdfast_schema::admin::{DrainStatus, ErrorCode};
use holdfast_schema::cluster::MemberState;
use serde_json::json;

fn at(step: &str, unreplicated: u64) -> Reply {
    let state = match step {
        "drained" => MemberState::Drained,
        "active" => MemberState::Active,
        _ => MemberState::Draining,
    };
    let status = DrainStatus {
        name: "d2".into(),
        state,
        step: step.into(),
        unreplicated,
        owned: 5,
        votes: 0,
        quiet_ms: 0,
        notes: vec![],
    };
    Reply::Json(202, serde_json::to_value(status).unwrap())
}

/// A director that gives these answers one after another, the last one for ever.
fn steps(answers: &'static [fn() -> Reply]) -> Fake {
    let next = Mutex::new(0);
    Fake::start(move |seen| {
        assert_eq!(seen.path, "/v1/nodes/d2/drain");
        let mut next = next.lock().unwrap();
        let answer = answers[(*next).min(answers.len() - 1)];
        *next += 1;
        answer()
    })
}

#[test]
fn a_drain_is_watched_to_its_end() {
    let fake = steps(&[
        || at("flushing", 9),
        || at("flushing", 3),
        || Reply::Silence,
        || error(ErrorCode::Unavailable, "no leader", ""),
        || at("vips-worse", 0),
        || at("drained", 0),
    ]);
    let ran = fake.run(&["node", "drain", "d2"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.starts_with("d2 is drained ("), "{}", ran.out);
    assert_eq!(
        ran.err,
        "\
d2: replicating every session (9 sessions only it knows, 5 it still carries, 0 votes)
d2: moving clients to the others (0 sessions only it knows, 5 it still carries, 0 votes)
d2: drained (0 sessions only it knows, 5 it still carries, 0 votes)
"
    );
    let lines = fake.lines();
    assert_eq!(lines[0], "POST /v1/nodes/d2/drain");
    assert!(lines[1..].iter().all(|line| line == "GET /v1/nodes/d2/drain"));
    assert_eq!(fake.seen()[0].body, json!({}));
}

#[test]
fn programs_get_the_last_status_and_no_progress() {
    let fake = steps(&[|| at("flushing", 9), || at("drained", 0)]);
    let status = fake.json(&["node", "drain", "d2", "--force", "tested"]).value();
    assert_eq!((&status["state"], &status["step"]), (&json!("drained"), &json!("drained")));
    assert_eq!(fake.seen()[0].body, json!({ "force": "tested" }));
}

#[test]
fn without_waiting_it_only_starts() {
    let fake = steps(&[|| at("flushing", 9)]);
    let out = fake.run(&["node", "drain", "d2", "--no-wait"]).ok();
    assert_eq!(out, "d2 is draining; `holdfast node drain d2` watches it\n");
    assert_eq!(fake.lines().len(), 1);
}

#[test]
fn the_deadline_has_an_exit_code_of_its_own() {
    let fake = steps(&[|| at("flushing", 9)]);
    let ran = fake.run(&["node", "drain", "d2", "--timeout", "600ms"]);
    assert_eq!((ran.code, ran.out.as_str()), (7, ""));
    assert!(
        ran.err.contains("error: d2 is not drained after 600ms; the drain goes on\n"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("`holdfast node undrain d2` ends it"), "{}", ran.err);
}

#[test]
fn interrupting_says_that_the_drain_goes_on() {
    for signal in ["-INT", "-TERM"] {
        let fake = steps(&[|| at("flushing", 9)]);
        let child = fake.command(&["--output", "json", "node", "drain", "d2"]).spawn().unwrap();
        fake.wait_for("GET /v1/nodes/d2/drain");
        let kill =
            std::process::Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        let err = ran(child.wait_with_output().unwrap()).failed(130);
        let err: serde_json::Value = serde_json::from_str(&err).unwrap();
        assert_eq!(err["code"], "interrupted");
        assert_eq!(err["message"], "interrupted: the drain of d2 goes on");
    }
}

#[test]
fn a_refused_drain_shows_the_arithmetic() {
    let fake = Fake::always(|| {
        error(
            ErrorCode::Precondition,
            "d2 is the last director that serves (1 of 1)",
            "add another first",
        )
    });
    let err = fake.run(&["node", "drain", "d2"]).failed(6);
    assert_eq!(
        err,
        "error: d2 is the last director that serves (1 of 1)\n hint: add another first\n"
    );
}

#[test]
fn somebody_else_may_end_it() {
    let fake = steps(&[|| at("flushing", 9), || at("active", 0)]);
    let ran = fake.run(&["node", "drain", "d2"]);
    assert_eq!(ran.code, 6);
    assert!(ran.err.contains("somebody has undrained it"), "{}", ran.err);
    let fake = steps(&[
        || at("flushing", 9),
        || error(ErrorCode::NotFound, "there is no director d2", ""),
    ]);
    let ran = fake.run(&["node", "drain", "d2"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("the drain goes on, but it cannot be watched: there is no director d2"),
        "{}",
        ran.err
    );
}
