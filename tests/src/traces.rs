//! What a run could leave behind on the machine: namespaces, processes, mounts, links, rules, files.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::run::run;

/// A list of everything a lab could leave behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces(BTreeSet<String>);

impl Traces {
    /// Looks now.
    pub fn look() -> Result<Traces> {
        let mut found = BTreeSet::new();
        let mut add = |kind: &str, text: String| {
            found.extend(text.lines().map(|line| format!("{kind}: {}", line.trim())));
        };
        let output = |program: &str, args: &[&str]| -> Result<String> {
            run(Command::new(program).args(args), Duration::from_secs(10))?.ok()
        };
        add("namespace", output("ip", &["netns", "list"])?);
        add("link", strip_counters(&output("ip", &["-o", "link", "show"])?));
        add("rule", output("ip", &["rule", "show"])?);
        add("rule6", output("ip", &["-6", "rule", "show"])?);
        add("mount", std::fs::read_to_string("/proc/self/mounts")?);
        add("nft", output("nft", &["list", "tables"])?);
        add("process", holdfast_processes()?);
        for dir in ["/run/netns", "/var/lib", "/etc", "/dev/shm", "/sys/fs/bpf"] {
            add("file", names_in(dir)?);
        }
        // What a web server writes where its configuration does not say otherwise.
        for dir in ["/var/lib/nginx", "/var/log/nginx"] {
            let mut names = String::new();
            everything_below(std::path::Path::new(dir), &mut names)?;
            add("file", names);
        }
        // Everybody writes to these; ours have our name.
        for dir in ["/tmp", "/run", "/var/tmp"] {
            let names = names_in(dir)?;
            let ours = |line: &&str| line.contains("hf-") || line.contains("holdfast");
            add("file", names.lines().filter(ours).collect::<Vec<&str>>().join("\n"));
        }
        Ok(Traces(found))
    }

    /// What is there now and was not there before.
    pub fn since(&self, before: &Traces) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

/// Keeps the name of a link and drops its state, which other work on the machine may change.
fn strip_counters(text: &str) -> String {
    text.lines()
        .filter_map(|line| line.split(':').nth(1))
        .map(|name| name.trim().to_owned() + "\n")
        .collect()
}

/// Processes that a lab starts: ours, and the servers it runs in its namespaces.
fn holdfast_processes() -> Result<String> {
    let mut text = String::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let Ok(comm) = std::fs::read_to_string(path.join("comm")) else { continue };
        let comm = comm.trim();
        let ours = ["holdfast", "bird", "nginx", "iperf3", "sshd", "prometheus"];
        if ours.iter().any(|name| comm.starts_with(name)) {
            text += &format!("{comm} {}\n", path.display());
        }
    }
    // The tests' own processes are not traces.
    Ok(text
        .lines()
        .filter(|l| !l.starts_with("holdfast_tests"))
        .map(|l| format!("{l}\n"))
        .collect())
}

fn everything_below(dir: &std::path::Path, names: &mut String) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        *names += &format!("{}\n", entry.path().display());
        if entry.file_type()?.is_dir() {
            everything_below(&entry.path(), names)?;
        }
    }
    Ok(())
}

fn names_in(dir: &str) -> Result<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(String::new()) };
    let mut text = String::new();
    for entry in entries {
        text += &format!("{}\n", entry?.path().display());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_at_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("body/0/1");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("file"), "").unwrap();
        let mut names = String::new();
        everything_below(dir.path(), &mut names).unwrap();
        assert!(names.contains("body/0/1/file\n") && names.lines().count() == 4, "{names}");
    }
}
