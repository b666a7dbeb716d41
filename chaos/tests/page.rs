//! The page of a report in a real browser: it shows its plots, its numbers are those of the report, and
//! nothing complains.

#[path = "page/fixture.rs"]
mod fixture;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

const CHAOS: &str = env!("CARGO_BIN_EXE_holdfast-chaos");
/// On a busy machine a browser takes its time.
const DEADLINE: Duration = Duration::from_secs(600);
/// One browser at a time.
static BROWSER: Mutex<()> = Mutex::new(());

/// What a browser saw of a page.
struct Seen {
    /// What [`LOOK`] found.
    found: Value,
    /// What it wrote on its console.
    console: Vec<String>,
}

/// Looks at the page from within: each plot's shapes and where they are, the numbers in the tables, what
/// the script says under the pointer.
const LOOK: &str = r#"<script>addEventListener("load", () => {
  const plots = [...document.querySelectorAll("svg.plot")].map((plot) => {
    const box = plot.viewBox.baseVal, on = plot.getBoundingClientRect();
    const shapes = {}, outside = [];
    for (const shape of plot.querySelectorAll("rect,path,text,line")) {
      if (getComputedStyle(shape).display === "none") continue;
      const b = shape.getBBox();
      if (b.width === 0 && b.height === 0) continue;
      for (const name of shape.classList) shapes[name] = (shapes[name] || 0) + 1;
      const over = 1;
      if (b.x < box.x - over || b.y < box.y - over || b.x + b.width > box.x + box.width + over
        || b.y + b.height > box.y + box.height + over) outside.push(shape.outerHTML.slice(0, 160));
    }
    return {kind: plot.dataset.plot, shapes, outside, width: on.width, height: on.height};
  });
  const rows = [...document.querySelectorAll("tr[data-fault]")].map((row) => ({
    table: row.closest("table").className, fault: row.dataset.fault, cohort: row.dataset.cohort,
    cells: [...row.querySelectorAll("td")].map((cell) => cell.textContent)}));
  const phases = [...document.querySelectorAll("tr[data-phase]")].map((row) =>
    [...row.querySelectorAll("td")].map((cell) => cell.textContent));
  const fates = [...document.querySelectorAll("details.fate")].map((fate) => {
    const rows = [...fate.querySelectorAll("tbody tr")];
    return {fault: fate.dataset.fault, how: fate.dataset.how, standing: fate.dataset.standing,
      summary: fate.querySelector("summary").textContent, rows: rows.length,
      shown: rows.filter((row) => row.checkVisibility()).length};
  });
  const line = document.querySelector("svg.timeline");
  let tip = "";
  if (line) {
    const on = line.getBoundingClientRect();
    line.dispatchEvent(new PointerEvent("pointermove",
      {clientX: on.left + on.width / 2, clientY: on.top + on.height / 2, bubbles: true}));
    tip = document.getElementById("tip").textContent;
  }
  const background = () => getComputedStyle(document.body).backgroundColor;
  const before = background();
  document.getElementById("theme").click();
  const look = document.createElement("pre");
  look.id = "look";
  look.textContent = JSON.stringify({plots, rows, phases, fates, tip, backgrounds: [before, background()],
    title: document.title, heading: document.querySelector("h1").textContent,
    text: document.querySelector("main").innerText,
    elsewhere: performance.getEntriesByType("resource").map((r) => r.name),
    scrolls: document.documentElement.scrollWidth > document.documentElement.clientWidth});
  document.body.append(look);
});</script>"#;

/// Opens a page in Chromium. It ends by itself, or is ended.
fn open(page: &str, dir: &Path, width: u32) -> Seen {
    let _alone = BROWSER.lock().unwrap_or_else(PoisonError::into_inner);
    let file = dir.join("looked-at.html");
    std::fs::write(&file, page.replace("</body>", &format!("{LOOK}</body>"))).unwrap();
    let stdout = dir.join("dom");
    let stderr = dir.join("complaints");
    let mut browser = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"])
        .arg(format!("--user-data-dir={}", dir.join("profile").display()))
        .arg(format!("--window-size={width},900"))
        .args(["--virtual-time-budget=10000", "--dump-dom"])
        .arg(format!("file://{}", file.display()))
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&stdout).unwrap())
        .stderr(std::fs::File::create(&stderr).unwrap())
        .spawn()
        .expect("chromium is there (deploy/packages.sh installs it)");
    let deadline = Instant::now() + DEADLINE;
    while browser.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            browser.kill().unwrap();
            browser.wait().unwrap();
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let dom = std::fs::read_to_string(stdout).unwrap();
    let complaints = std::fs::read_to_string(stderr).unwrap();
    let console = complaints.lines().filter(|l| l.contains("CONSOLE")).map(str::to_owned).collect();
    let look = dom.split_once("<pre id=\"look\">").and_then(|(_, rest)| rest.split_once("</pre>"));
    let look = look.map(|(json, _)| json.replace("&lt;", "<").replace("&gt;", ">"));
    let found = look.map(|json| serde_json::from_str(&json.replace("&amp;", "&")).unwrap());
    Seen { found: found.unwrap_or_else(|| panic!("nothing was seen: {complaints}")), console }
}

/// The page of a report, made by the program.
fn page_of(report: &Value, dir: &Path) -> String {
    let json = dir.join("report.json");
    std::fs::write(&json, report.to_string()).unwrap();
    let made = Command::new(CHAOS).arg("html").arg(&json).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::read_to_string(dir.join("report.html")).unwrap()
}

/// Runs that passed are folded away, and so are losses that had an excuse; what is not shown has no place.
fn unfolded(page: &str) -> String {
    page.replace("<details class=\"run\"", "<details open class=\"run\"")
        .replace("<details class=\"losses\">", "<details open class=\"losses\">")
}

fn texts(row: &Value) -> Vec<String> {
    let cells = row.as_array().unwrap().iter();
    cells.map(|cell| cell.as_str().unwrap().trim().to_owned()).collect()
}

/// Classes of what a time line and the stalls of a step show.
type Shown = [&'static str; 2];
/// A run in which everything happens.
const EVERYTHING: Shown = [
    "kind stall-max stall-p99 fault fault-now fault-name announced silent withdrawn differs plan election \
     busy axis",
    "q-calm q-before q-during q-moved q-after aim grid",
];
/// One whose steps do not all have an aim.
const WITHOUT_AIMS: Shown = [EVERYTHING[0], "q-calm q-before q-during q-moved q-after grid"];
/// A real one, whose tables are alike, and whose steps do not all move connections.
const OF_A_LAB: Shown = [
    "kind stall-max stall-p99 fault fault-now fault-name announced withdrawn plan busy axis",
    "q-calm q-before q-during q-after grid",
];

/// All plots, each with everything that it shall show, and nothing outside of it: a time line for each run,
/// and stalls for each of its steps, so many of them.
fn whole(seen: &Seen, steps: &[usize], [timeline, stalls]: Shown) {
    assert_eq!(seen.console, [] as [&str; 0]);
    let plots = seen.found["plots"].as_array().unwrap();
    let kinds: Vec<&str> = plots.iter().map(|p| p["kind"].as_str().unwrap()).collect();
    let of_run = |steps: &usize| [&["timeline"][..], &["stalls"].repeat(*steps)].concat();
    assert_eq!(kinds, steps.iter().flat_map(of_run).collect::<Vec<_>>());
    for plot in plots {
        assert_eq!(plot["outside"], serde_json::json!([]));
        let size = (plot["width"].as_f64(), plot["height"].as_f64());
        assert!(size.0 > Some(200.0) && size.1 > Some(100.0), "{plot}");
        let classes = if plot["kind"] == "timeline" { timeline } else { stalls };
        for class in classes.split(' ') {
            assert!(plot["shapes"][class].as_u64() > Some(0), "no {class} in {plot}");
        }
    }
    assert_eq!(seen.found["elsewhere"], serde_json::json!([]), "it needs nothing else");
    assert_eq!(seen.found["scrolls"], false, "wide parts scroll by themselves, the page does not");
}

/// These rows are in the tables of this class.
fn has_rows(seen: &Seen, table: &str, rows: fixture::Rows) {
    let found = seen.found["rows"].as_array().unwrap();
    for (fault, cohort, cells) in rows {
        let row = found.iter().find(|row| {
            row["table"].as_str().unwrap().ends_with(table)
                && row["fault"] == *fault
                && row["cohort"] == *cohort
        });
        let row = row.unwrap_or_else(|| panic!("no row of {cohort} in {fault}"));
        let shown = texts(&row["cells"]);
        assert!(shown[0].starts_with(cohort), "{shown:?}");
        assert_eq!(shown[1..], **cells, "{cohort} in {fault}");
    }
}

#[test]
fn a_browser_shows_every_plot_and_the_numbers_of_the_report() {
    let dir = tempfile::tempdir().unwrap();
    let page = page_of(&fixture::report(), dir.path());
    let seen = open(&page, dir.path(), 1280);
    whole(&seen, &[2], EVERYTHING);
    let found = &seen.found;
    let heading = found["heading"].as_str().unwrap();
    assert!(heading.contains("FAIL"), "{heading}");
    assert!(heading.contains("2 of 1,400 connections that had to survive were lost"), "{heading}");
    let allowed =
        "1 more were lost that may be: 1 in kill-daemon. 1 could not be opened in kill-daemon.";
    assert!(heading.ends_with(allowed), "{heading}");
    has_rows(&seen, "survivors", fixture::AGES);
    has_rows(&seen, "kinds", fixture::KINDS);
    let text = found["text"].as_str().unwrap();
    for part in [
        "3 lost; 1 reset, 2 silence; 1 not opened",
        "slowest opening 1.2 s",
        "10.72.1.2:40000 > 203.0.113.10:7001",
        "d1 → d2",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let phases: Vec<Vec<String>> = found["phases"].as_array().unwrap().iter().map(texts).collect();
    assert_eq!(phases[..5], fixture::phases().map(|row| row.map(str::to_owned).to_vec()));
    let tip = found["tip"].as_str().unwrap();
    assert!(tip.contains("connections alive") && tip.contains("silence: p99"), "{tip}");
    let [before, after] = &found["backgrounds"].as_array().unwrap()[..] else { panic!("{found}") };
    assert_ne!(before, after, "the button switches the colours");
}

#[test]
fn a_narrow_window_shows_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let seen = open(&page_of(&fixture::report(), dir.path()), dir.path(), 800);
    whole(&seen, &[2], EVERYTHING);
}

#[test]
fn a_matrix_has_all_its_runs_and_their_sum() {
    let dir = tempfile::tempdir().unwrap();
    let page = page_of(&fixture::matrix(), dir.path());
    let seen = open(&unfolded(&page), dir.path(), 1280);
    whole(&seen, &[2, 2], EVERYTHING);
    has_rows(&seen, "survivors", fixture::MATRIX);
    let text = seen.found["text"].as_str().unwrap();
    for part in [
        "lab three, seed 8",
        "happened in 2 of 2 runs",
        "Again, in a checkout of commit 0123456789ab:\n",
        "make chaos SEEDS=2\n",
        "make chaos SEED=7 FAULTS=kill-daemon\n",
        "make chaos SEED=8 FAULTS=kill-daemon\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// What a real matrix looks like: more faults, directors and changes than anybody makes up.
#[test]
fn a_matrix_of_a_lab_is_drawn_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let report = fixture::of_a_lab();
    let page = unfolded(&page_of(&report, dir.path()));
    for width in [1280, 800] {
        let seen = open(&page, dir.path(), width);
        whole(&seen, &[10, 6], OF_A_LAB);
        let rows = seen.found["rows"].as_array().unwrap();
        let number = |cell: &Value| cell.as_str().unwrap().replace(',', "").parse::<u64>().ok();
        for step in
            report["runs"].as_array().unwrap().iter().flat_map(|r| r["steps"].as_array().unwrap())
        {
            for age in step["ages"].as_array().unwrap().iter().filter(|a| a["eligible"] != 0) {
                let of_it: Vec<&Value> = rows
                    .iter()
                    .filter(|r| r["table"].as_str().unwrap().ends_with("survivors"))
                    .filter(|r| r["fault"] == step["name"] && r["cohort"] == age["age"])
                    .collect();
                assert_eq!(of_it.len(), 2, "in the sum of all seeds, and in the run: {age}");
                for row in of_it {
                    for (cell, name) in ["eligible", "moved", "survived", "lost"].iter().enumerate()
                    {
                        assert_eq!(
                            number(&row["cells"][cell + 1]),
                            age[name].as_u64(),
                            "{name}: {row}"
                        );
                    }
                }
            }
        }
        let text = seen.found["text"].as_str().unwrap();
        for part in [
            "1,636 lost; of 20 that are known one by one 20 silence; 1 not opened",
            "and 1,617 more that an older program did not list",
            "≤ 565",
            "routes moved after 5 s",
            "in a checkout of commit d674058",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

#[test]
fn two_thousand_losses_are_all_there_and_folded_away_by_fate() {
    let dir = tempfile::tempdir().unwrap();
    let page = page_of(&fixture::many_lost(), dir.path());
    assert!(page.len() < 1_000_000, "{} bytes", page.len());
    let began = Instant::now();
    let seen = open(&page, dir.path(), 1280);
    println!("opened within {:?}", began.elapsed());
    whole(&seen, &[2], WITHOUT_AIMS);
    let fates = seen.found["fates"].as_array().unwrap();
    assert_eq!(fates.len(), fixture::MANY.len());
    for (fate, (how, error, count, excused)) in fates.iter().zip(fixture::MANY) {
        let standing = if excused { "excused" } else { "held" };
        assert_eq!((&fate["how"], &fate["standing"]), (&how.into(), &standing.into()));
        assert_eq!((&fate["fault"], &fate["rows"]), (&"kill-all".into(), &count.into()));
        let summary = fate["summary"].as_str().unwrap();
        assert!(summary.starts_with(&format!("{count} {how} {error}")), "{summary}");
        // What is folded away costs nothing to open.
        assert_eq!(fate["shown"], if excused { 0.into() } else { Value::from(count) }, "{summary}");
    }
    let text = seen.found["text"].as_str().unwrap();
    let sum = "1,800 lost; 900 reset, 300 silent-then-reset, 600 silence; 200 not opened";
    assert!(text.contains(sum), "{text}");
    assert!(!text.contains("did not list"), "{text}");
}

#[test]
fn hostile_text_stays_text() {
    let dir = tempfile::tempdir().unwrap();
    let mut report = fixture::report();
    let bad = "</script></style><img src=x onerror=console.error(1)><script>console.error(2)</script>\"'&";
    report["reason"] = bad.into();
    report["environment"]["command"] = bad.into();
    report["environment"]["commit"] = bad.into();
    report["steps"][1]["director"] = bad.into();
    report["steps"][1]["notes"] = serde_json::json!([bad]);
    report["steps"][1]["lost"][0]["error"] = bad.into();
    report["steps"][1]["lost"][0]["backend"] = bad.into();
    report["steps"][1]["ages"][0]["rule"] = bad.into();
    report["steps"][1]["cohorts"][0]["name"] = bad.into();
    report["timeline"]["alive"][0]["cohort"] = bad.into();
    report["timeline"]["faults"][0]["target"] = bad.into();
    report["timeline"]["directors"][0]["name"] = bad.into();
    report["timeline"]["directors"][0]["changes"][1]["said"]["leader"] = bad.into();
    let seen = open(&page_of(&report, dir.path()), dir.path(), 1280);
    assert_eq!(seen.console, [] as [&str; 0]);
    assert!(seen.found["text"].as_str().unwrap().contains(bad), "it is told as it is");
}

#[test]
fn a_run_that_broke_off_has_a_page_too() {
    let dir = tempfile::tempdir().unwrap();
    let report = serde_json::json!({
        "verdict": "unknown", "reason": "the run broke off: no lab", "seed": 1, "took_ms": 5, "steps": [],
    });
    let seen = open(&page_of(&report, dir.path()), dir.path(), 1280);
    assert_eq!(seen.console, [] as [&str; 0]);
    assert!(seen.found["text"].as_str().unwrap().contains("the run broke off: no lab"));
}

/// The checks above can fail.
#[test]
fn what_is_wrong_with_a_page_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let page = page_of(&fixture::report(), dir.path());
    let wrong = r#"<svg class="plot" viewBox="0 0 10 10"><path class="lost" d="M50 50H60"/></svg>
        <script>noSuchFunction()</script>"#;
    let seen = open(&page.replace("</main>", &format!("{wrong}</main>")), dir.path(), 1280);
    assert!(seen.console.iter().any(|line| line.contains("noSuchFunction")), "{:?}", seen.console);
    let plots = seen.found["plots"].as_array().unwrap();
    assert_eq!(plots.last().unwrap()["outside"].as_array().unwrap().len(), 1);
}

/// Rules change; a page tells of a run what its verdict did, or it is not made.
#[test]
fn an_older_report_gets_no_page_that_contradicts_its_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let mut report = fixture::report();
    for step in report["steps"].as_array_mut().unwrap() {
        for age in step["ages"].as_array_mut().unwrap() {
            age.as_object_mut().unwrap().remove("excess");
        }
    }
    let file = dir.path().join("report.json");
    std::fs::write(&file, report.to_string()).unwrap();
    let refused = Command::new(CHAOS).arg("html").arg(&file).output().unwrap();
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("the 1 newborn connections that kill-daemon lost"), "{said}");
    report["verdict"] = "pass".into();
    report["steps"][1]["ages"][0]["lost"] = 0.into();
    let page = page_of(&report, dir.path());
    assert!(
        page.contains("all 1,400 connections that had to survive did"),
        "nothing was held against it"
    );
}

#[test]
fn what_is_no_report_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("report.json");
    std::fs::write(&file, "{}").unwrap();
    let refused = Command::new(CHAOS).arg("html").arg(&file).output().unwrap();
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("report.json is no report of a run"), "{said}");
    assert!(!dir.path().join("report.html").exists());
}
