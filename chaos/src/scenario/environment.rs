//! Where a run is made: what the report says of the machine.

use nix::sys::utsname::uname;

use super::report::Environment;
use crate::clock::unix_ms;
use crate::lab::plan::Plan;

/// What is known when a run begins that `command` repeats.
pub fn now(plan: &Plan, commit: Option<&str>, command: String) -> Environment {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let kernel = uname().map_or_else(
        |_| "unknown".to_owned(),
        |u| {
            let words = [u.sysname(), u.release(), u.machine()];
            words.map(|w| w.to_string_lossy().into_owned()).join(" ")
        },
    );
    Environment {
        commit: commit.unwrap_or("unknown").to_owned(),
        command,
        began_unix_ms: unix_ms(),
        kernel,
        processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or("unknown").to_owned(),
        cores: std::thread::available_parallelism().map_or(0, |n| n.get() as u64),
        memory_mib: field(&read("/proc/meminfo"), "MemTotal")
            .and_then(|kib| kib.trim_end_matches(" kB").parse::<u64>().ok())
            .map_or(0, |kib| kib / 1024),
        load_before: load(),
        load_after: 0,
        directors: plan.directors.len() as u64,
        backends: u64::from(plan.backends),
        clients: u64::from(plan.clients),
        replicate_after: plan.replicate_after.clone(),
        guard_timeout_ms: u64::from(plan.guard_timeout_ms),
    }
}

/// How many processes wanted to run in the last minute (hundredths).
pub fn load() -> u64 {
    load_of(&std::fs::read_to_string("/proc/loadavg").unwrap_or_default())
}

fn load_of(loadavg: &str) -> u64 {
    let minute = loadavg.split(' ').next().and_then(|word| word.parse::<f64>().ok());
    minute.map_or(0, |load| (load * 100.0).round() as u64)
}

/// The first value of a key in a file of `key : value` lines.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then_some(value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_read() {
        assert_eq!(load_of("1.25 0.80 0.40 2/300 1234\n"), 125);
        assert_eq!(load_of(""), 0);
        assert_eq!(
            field("processor\t: 0\nmodel name\t: Fast One\n", "model name"),
            Some("Fast One")
        );
        assert_eq!(field("MemTotal:  16000 kB\n", "MemTotal"), Some("16000 kB"));
        assert_eq!(field("x: 1\n", "MemTotal"), None);
    }
}
