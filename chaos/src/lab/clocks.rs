//! Wall clocks that can be set: each daemon of a lab that asks for it gets a small library that adds seconds
//! to what the kernel says. The machine's own clock is everybody's and stays as it is.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::plan::{Plan, Site};
use crate::command::run;

const SOURCE: &str = include_str!("clock_shift.c");
const LIBRARY: &str = "clock_shift.so";

/// Makes the library, and the file of each director's clock.
pub async fn make(plan: &Plan) -> Result<()> {
    let (source, library) = (plan.dir().join("clock_shift.c"), library(plan));
    std::fs::write(&source, SOURCE)?;
    let (source, library) = (source.display().to_string(), library.display().to_string());
    run(&["cc", "-shared", "-fPIC", "-O2", "-o", &library, &source, "-ldl"])
        .await
        .context("clocks that can be set need a C compiler (apt-get install gcc)")?;
    Ok(())
}

fn library(plan: &Plan) -> PathBuf {
    plan.dir().join(LIBRARY)
}

/// Sets a director's wall clock that far from the machine's.
pub fn set(plan: &Plan, site: Site, seconds: i64) -> Result<()> {
    let file = plan.file(&site.name(), "clock");
    std::fs::create_dir_all(file.parent().context("it is in a folder")?)?;
    // In place: a process that looks at a file while it is cut off gets a signal.
    std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&file)
        .and_then(|mut file| file.write_all(&seconds.to_ne_bytes()))
        .with_context(|| format!("writing {}", file.display()))
}

/// What a daemon is started with so that it sees its own clock.
pub fn environment(plan: &Plan, site: Site) -> Vec<(&'static str, String)> {
    if !plan.clocks {
        return Vec::new();
    }
    let file = plan.file(&site.name(), "clock");
    vec![
        ("LD_PRELOAD", library(plan).display().to_string()),
        ("HOLDFAST_LAB_CLOCK", file.display().to_string()),
    ]
}

/// Fails unless a process has the library.
pub fn has_own(plan: &Plan, pid: u32) -> Result<()> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let library = library(plan).display().to_string();
    ensure!(maps.contains(&library), "process {pid} has no clock of its own");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::unix_ms;
    use crate::command::command;

    #[tokio::test]
    async fn a_process_sees_the_clock_that_was_set_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("shift.c"), SOURCE).unwrap();
        run(&["cc", "-shared", "-fPIC", "-o", &path("shift.so"), &path("shift.c"), "-ldl"])
            .await
            .unwrap();
        for shift in [300_i64, -300] {
            std::fs::write(path("clock"), shift.to_ne_bytes()).unwrap();
            let mut date = command(&["date", "+%s"]);
            date.env("LD_PRELOAD", path("shift.so")).env("HOLDFAST_LAB_CLOCK", path("clock"));
            let said = date.output().await.unwrap().stdout;
            let said: i64 = String::from_utf8(said).unwrap().trim().parse().unwrap();
            let off = said - unix_ms() / 1000;
            assert!((off - shift).abs() < 20, "{off}");
        }
    }
}
