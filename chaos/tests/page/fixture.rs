//! A small report in which everything happens: two steps, a loss, a director that hangs, another leader,
//! tables that differ.

use serde_json::{Value, json};

/// Intervals of the time line.
const COUNT: u64 = 120;

fn stalls(p50: u64, p99: u64, max: u64) -> Value {
    json!({"p50": p50, "p99": p99, "max": max})
}

fn cohort(name: &str, eligible: u64, survived: u64) -> Value {
    json!({"name": name, "eligible": eligible, "survived": survived, "moved_backend": 0, "corrupt": 0,
        "stall_ms": stalls(0, 200, 250)})
}

fn age(age: &str, rule: &str, [eligible, moved, lost, moved_lost, reset]: [u64; 5]) -> Value {
    json!({"age": age, "rule": rule, "eligible": eligible, "moved": moved, "survived": eligible - lost,
        "lost": lost, "moved_lost": moved_lost, "reset": reset, "silent_reset": 0, "not_spared": 0,
        "excess": if rule == NONE { lost } else { 0 }, "refused": 0, "wrong_backend": 0, "corrupt": 0,
        "unconnected": u64::from(age == "newborn"), "bound": null, "moved_bound": null})
}

fn step(
    name: &str,
    director: &str,
    moved: u64,
    cohorts: &[Value],
    ages: &[Value],
    lost: &[Value],
) -> Value {
    json!({"name": name, "director": director, "happened": true, "notes": [], "took_s": 0.1,
        "repair_s": 10.0, "routes_moved_ms": 40, "bfd_ms": null, "eligible_taken_over": moved,
        "guard_releases": 0, "guard_releases_injected": 0,
        "young": {"total": 1_500, "survived": 1_490, "moved_backend": 0, "corrupt": 0},
        "cohorts": cohorts, "stall_ms": stalls(0, 200, 250), "slowest_opening_ms": 1_200, "losses": [], "ages": ages, "lost": lost})
}

fn lost(age: &str, how: &str, error: &str, excused: bool) -> Value {
    json!({"id": 7, "kind": "echo", "age": age, "age_ms": 12_000, "client": "10.72.1.2:40000",
        "vip": "203.0.113.10:7001", "backend": "b1", "how": how, "error": error, "errno": 104,
        "at_ms": 12, "last_byte_ms": -230, "exchanges": 48, "director_before": "d1",
        "director_after": "d2", "excused": excused})
}

const NONE: &str = "none may be lost";
const SHOWN: &str = "any may be lost: it may still be on its way";

fn add_node() -> Value {
    let ages = [age("long", NONE, [1_000, 300, 0, 0, 0]), age("young", NONE, [0, 0, 0, 0, 0])];
    step("add-node", "d2", 300, &[cohort("echo", 1_000, 1_000)], &ages, &[])
}

fn kill_daemon() -> Value {
    let ages = [age("long", NONE, [400, 109, 2, 2, 1]), age("newborn", SHOWN, [60, 20, 1, 1, 0])];
    let lost = [
        lost("long", "reset", "connection reset by peer", false),
        lost("long", "silence", "no progress for 10 s beyond its gap", false),
        lost("newborn", "silence", "no progress for 10 s beyond its gap", true),
        lost("newborn", "not-opened", "nobody answered its opening", true),
    ];
    step(
        "kill-daemon",
        "d1",
        109,
        &[cohort("echo", 300, 298), cohort("drip", 100, 100)],
        &ages,
        &lost,
    )
}

/// Rows of a table: fault, cohort, and the cells after its name.
pub type Rows = &'static [(&'static str, &'static str, &'static [&'static str])];

/// By age: eligible, moved, survived, lost, lost of moved, reset, wrong backend, bound, bound of moved, not opened.
pub const AGES: Rows = &[
    ("add-node", "long", &["1,000", "300", "1,000", "0", "0", "0", "0", "< 0.3 %", "< 1 %", "0"]),
    (
        "kill-daemon",
        "long",
        &["400", "109", "398", "2", "2", "1", "0", "0.5 % lost", "1.8 % lost", "0"],
    ),
    (
        "kill-daemon",
        "newborn",
        &["60", "20", "59", "1", "1", "0", "0", "1.7 % lost", "5 % lost", "1"],
    ),
];

/// By kind: eligible, survived, lost, wrong backend, damaged, bound.
pub const KINDS: Rows = &[
    ("add-node", "echo", &["1,000", "1,000", "0", "0", "0", "< 0.3 %"]),
    ("kill-daemon", "drip", &["100", "100", "0", "0", "0", "< 3 %"]),
];

/// All faults of a matrix of two runs, by age.
pub const MATRIX: Rows = &[
    (
        "add-node",
        "long",
        &["2,000", "600", "2,000", "0", "0", "0", "0", "< 0.15 %", "< 0.5 %", "0"],
    ),
    (
        "kill-daemon",
        "long",
        &["800", "218", "796", "4", "4", "2", "0", "0.5 % lost", "1.8 % lost", "0"],
    ),
];

/// A matrix of two seeds.
pub fn matrix() -> Value {
    let run = |seed: u64, verdict: &str| {
        let mut run = report();
        run["seed"] = seed.into();
        run["lab"] = "three".into();
        run["verdict"] = verdict.into();
        run["environment"]["command"] = format!("make chaos SEED={seed} FAULTS=kill-daemon").into();
        run
    };
    let fault = |name: &str, ages: &[Value], eligible: u64, lost: u64| {
        json!({"name": name, "what": "something happens", "runs": 2, "happened": 2, "ages": ages,
            "eligible": eligible, "lost": lost})
    };
    json!({
        "verdict": "fail",
        "reason": "seed 7, three: FAIL: so",
        "command": "make chaos SEEDS=2",
        "took_ms": 64_000,
        "faults": [
            fault("add-node", &[age("long", NONE, [2_000, 600, 0, 0, 0])], 2_000, 0),
            fault("kill-daemon", &[age("long", NONE, [800, 218, 4, 4, 2])], 800, 4),
        ],
        "runs": [run(7, "fail"), run(8, "pass")],
    })
}

/// Two labs of a matrix as they were written: ten faults on three directors, and six while there are two to
/// six of them. Of the losses of `kill-all` only some are listed, as older programs did.
pub fn of_a_lab() -> Value {
    serde_json::from_str(include_str!("matrix.json")).unwrap()
}

/// Fates of a crash that most were lost in: how, what was said, how many, excused.
pub const MANY: [(&str, &str, usize, bool); 5] = [
    ("reset", "exchanging: Connection reset by peer (os error 104)", 1, false),
    ("reset", "exchanging: Connection reset by peer (os error 104)", 899, true),
    ("silent-then-reset", "exchanging: Connection reset by peer (os error 104)", 300, true),
    ("silence", "it fell silent", 600, true),
    ("not-opened", "connecting: Connection timed out (os error 110)", 200, true),
];

/// A report of a run that lost as many.
pub fn many_lost() -> Value {
    let mut all = Vec::new();
    for (how, error, count, excused) in MANY {
        for number in 0..count {
            let mut one = lost("young", how, error, excused);
            one["id"] = (all.len() as u64).into();
            one["at_ms"] = (number as u64).into();
            all.push(one);
        }
    }
    let mut young = age("young", SHOWN, [2_000, 1_900, 1_800, 1_800, 900]);
    young["silent_reset"] = 300.into();
    young["not_spared"] = 1.into();
    young["excess"] = 1.into();
    young["unconnected"] = 200.into();
    let mut report = report();
    let kill_all = step("kill-all", "d1+d2+d3", 400, &[cohort("echo", 300, 300)], &[young], &all);
    report["steps"][1] = kill_all;
    report
}

/// The rows of the stalls of the first step.
pub fn phases() -> [[&'static str; 5]; 5] {
    [
        ["without faults", "100", "0 ms", "12 ms", "12 ms"],
        ["before", "100", "0 ms", "14 ms", "14 ms"],
        ["during", "100", "0 ms", "230 ms", "1.2 s"],
        ["during, moved", "30", "120 ms", "1.2 s", "1.2 s"],
        ["after", "100", "0 ms", "20 ms", "20 ms"],
    ]
}

fn phase(from_ms: u64, until_ms: u64, buckets: &[(u64, u64)]) -> Value {
    let count: u64 = buckets.iter().map(|(_, count)| count).sum();
    let max_ms = buckets.last().map_or(0, |(ms, _)| *ms);
    json!({"from_ms": from_ms, "until_ms": until_ms,
        "stalls": {"count": count, "max_ms": max_ms, "buckets": buckets}})
}

fn around() -> Value {
    json!({
        "before": phase(9_000, 10_000, &[(0, 98), (14, 2)]),
        "during": phase(10_000, 16_000, &[(0, 70), (120, 20), (230, 9), (1_200, 1)]),
        "moved": phase(10_000, 16_000, &[(120, 20), (230, 9), (1_200, 1)]),
        "after": phase(16_000, 20_000, &[(0, 90), (20, 10)]),
    })
}

fn said(
    state: &str,
    shown: &str,
    leader: &str,
    term: u64,
    led: u32,
    revision: u64,
    hash: u64,
) -> Value {
    json!({"state": state, "ready": shown == "announced", "announcement": shown, "leader": leader,
        "term": term, "shards_led": led, "shard_terms": term * 16, "revision": revision,
        "health_version": 3, "table_hash": hash, "planned": []})
}

fn directors() -> Value {
    let mut draining = said("draining", "worse", "d2", 3, 0, 5, 7);
    let mut leading = said("active", "announced", "d2", 3, 16, 5, 8);
    for said in [&mut draining, &mut leading] {
        said["planned"] = json!(["drain d1"]);
    }
    let lane =
        |name: &str, changes: Value| json!({"name": name, "changes": changes, "unrecorded": 0});
    json!([
        lane(
            "d1",
            json!([
                {"at_ms": 1_800, "said": null},
                {"at_ms": 2_000, "said": said("active", "announced", "d1", 2, 16, 4, 6)},
                {"at_ms": 10_000, "said": null},
                {"at_ms": 13_000, "said": said("active", "withdrawn", "d2", 3, 0, 5, 7)},
                {"at_ms": 14_000, "said": said("active", "announced", "d2", 3, 0, 5, 7)},
                {"at_ms": 20_000, "said": draining},
                {"at_ms": 22_000, "said": said("drained", "withdrawn", "d2", 3, 0, 5, 7)},
            ])
        ),
        lane(
            "d2",
            json!([
                {"at_ms": 2_000, "said": said("active", "announced", "d1", 2, 0, 4, 6)},
                {"at_ms": 10_400, "said": said("active", "announced", "d2", 3, 16, 5, 8)},
            {"at_ms": 20_000, "said": leading},
            {"at_ms": 22_000, "said": said("active", "announced", "d2", 3, 16, 5, 8)},
            ])
        ),
    ])
}

/// The report.
pub fn report() -> Value {
    let series = |of: &dyn Fn(u64) -> u64| (0..COUNT).map(of).collect::<Vec<u64>>();
    let fault = |at: u64| (34..40).contains(&at);
    json!({
        "verdict": "fail",
        "reason": "kill-daemon lost 2 of 400 eligible connections",
        "seed": 7,
        "took_ms": 32_000,
        "environment": {"commit": "0123456789ab", "command": "make demo SEED=7",
            "began_unix_ms": 1_785_674_096_789_i64, "kernel": "Linux 6.1.0 x86_64",
            "processor": "Some Processor", "cores": 2, "memory_mib": 4_000, "load_before": 150,
            "load_after": 325, "directors": 3, "backends": 3, "clients": 1,
            "replicate_after": "3s", "guard_timeout_ms": 150},
        "steps": [
            add_node(),
            kill_daemon(),
        ],
        "timeline": {
            "from_ms": 2_000,
            "every_ms": 250,
            "alive": [
                {"cohort": "echo", "count": series(&|i| 160.min(i * 40))},
                {"cohort": "young", "count": series(&|i| if fault(i) { 50 } else { 60 })},
            ],
            "stalls": {"p99_ms": series(&|i| if fault(i) { 230 } else { 6 }),
                "max_ms": series(&|i| if fault(i) { (i - 33) * 200 } else { 9 })},
            "faults": [
                {"kind": "add-node", "target": "d2", "begin_ms": 5_000, "done_ms": 5_600, "end_ms": 8_000},
                {"kind": "kill-daemon", "target": "d1", "begin_ms": 10_000, "done_ms": 10_040,
                    "end_ms": 16_000},
            ],
            "directors": directors(),
            "busy": {"from_ms": 1_500, "every_ms": 500, "percent": series(&|i| i % 100)},
        },
        "stalls": {
            "calm": phase(3_000, 5_000, &[(0, 90), (12, 10)]),
            "steps": [around(), around()],
        },
    })
}
