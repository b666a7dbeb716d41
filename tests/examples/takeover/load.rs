//! Whether anything but the lab keeps the processors busy.

use std::fs;
use std::time::Instant;

/// More of the processors' time than this in the hands of others, and a round says little.
pub const CALM: f64 = 0.10;

/// Processor time so far, in clock ticks.
pub struct Load {
    at: Instant,
    all: u64,
    lab: u64,
}

impl Load {
    pub fn now() -> Load {
        Load { at: Instant::now(), all: all_ticks().unwrap_or(0), lab: lab_ticks() }
    }

    /// The part of all processors' time that others had since then, 0 to 1.
    pub fn others(&self) -> f64 {
        let now = Load::now();
        let others = (now.all - self.all).saturating_sub(now.lab.saturating_sub(self.lab));
        let cpus = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        // A tick is 10 ms wherever Linux runs (USER_HZ).
        (others as f64 / 100.0) / (self.at.elapsed().as_secs_f64() * cpus)
    }
}

/// What all processes used (without interrupts, which belong to nobody), and what other machines took.
fn all_ticks() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let numbers: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    Some(numbers.get(..3)?.iter().sum::<u64>() + numbers.get(7)?)
}

/// What this process and all that are in other network namespaces used.
fn lab_ticks() -> u64 {
    let netns = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let (me, here) = (std::process::id().to_string(), netns("self"));
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    let pids = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
    let ours = pids.filter(|pid| *pid == me || netns(pid).is_some_and(|ns| Some(ns) != here));
    ours.filter_map(|pid| ticks(&pid)).sum()
}

fn ticks(pid: &str) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may contain anything; utime and stime are fields 14 and 15.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}
