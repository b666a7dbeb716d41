//! Namespaces and folders that tests and examinations named after their process. One whose process is
//! gone is nobody's.

use std::fmt;
use std::path::Path;

use anyhow::{Result, ensure};

use super::down::{namespaces, netns_is_there, remove_folder, remove_netns};
use super::plan::RUN_BASE;
use super::spawn::alive;

/// What namespaces are called that carry a process id: those of `doctor`, and of the daemon's tests.
const NETNS_PREFIXES: [&str; 3] = ["hf-doctor-", "hf-nd-", "hf-node-"];
/// What the end-to-end tests call their folders; the id of their process follows.
const FOLDER_PREFIX: &str = "hf-test-";

/// Something whose process is gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Leftover {
    /// A network namespace.
    Namespace(String),
    /// A folder in [`RUN_BASE`].
    Folder(String),
}

impl fmt::Display for Leftover {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Leftover::Namespace(name) => write!(to, "Namespace {name}"),
            Leftover::Folder(name) => write!(to, "Folder {RUN_BASE}/{name}"),
        }
    }
}

impl Leftover {
    /// Removes it, and what runs in it.
    pub async fn remove(&self) -> Result<()> {
        match self {
            Leftover::Namespace(name) => {
                remove_netns(name).await?;
                ensure!(!netns_is_there(name), "namespace {name} stays behind");
                Ok(())
            }
            Leftover::Folder(name) => remove_folder(&Path::new(RUN_BASE).join(name)),
        }
    }
}

/// Everything that carries the id of a process that is gone.
pub fn find() -> Vec<Leftover> {
    let gone = |pid: Option<u32>| pid.is_some_and(|pid| !alive(pid));
    let spaces = namespaces().into_iter().filter(|n| gone(pid_of_netns(n)));
    let entries = std::fs::read_dir(RUN_BASE).into_iter().flatten();
    let folders = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|n| gone(pid_of_folder(n)));
    spaces.map(Leftover::Namespace).chain(folders.map(Leftover::Folder)).collect()
}

/// The process in a name: its last number. One letter may follow, for a second one of the same process.
fn pid_of_netns(name: &str) -> Option<u32> {
    let rest = NETNS_PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix))?;
    let rest = rest.strip_suffix(|c: char| c.is_ascii_lowercase()).unwrap_or(rest);
    rest.trim_end_matches('-').rsplit('-').next()?.parse().ok()
}

fn pid_of_folder(name: &str) -> Option<u32> {
    name.strip_prefix(FOLDER_PREFIX)?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_their_process() {
        for (name, pid) in [
            ("hf-doctor-4711-a", Some(4711)),
            ("hf-doctor-4711-b", Some(4711)),
            ("hf-nd-init-4711", Some(4711)),
            ("hf-nd-init-4711r", Some(4711)),
            ("hf-nd-two-words-4711", Some(4711)),
            ("hf-node-nl-4711", Some(4711)),
            ("hf-node-nl", None),
            ("hf-xdp12-d1", None),
            ("other-4711", None),
        ] {
            assert_eq!(pid_of_netns(name), pid, "{name}");
        }
        assert_eq!(pid_of_folder("hf-test-4711-abc"), Some(4711));
        for other in ["hf-xdp12", "hf-test-abc", "test-4711-abc"] {
            assert_eq!(pid_of_folder(other), None, "{other}");
        }
    }

    #[test]
    fn what_belongs_to_a_living_process_stays() {
        let me = std::process::id();
        let folder = |pid: u32| {
            let name = format!("{FOLDER_PREFIX}{pid}-");
            let made = tempfile::Builder::new().prefix(&name).tempdir_in(RUN_BASE).unwrap();
            let leftover = made.path().file_name().unwrap().to_str().unwrap().to_owned();
            (made, Leftover::Folder(leftover))
        };
        // No process has an id above the kernel's limit of 2^22.
        let ((_mine, mine), (_gone, gone)) = (folder(me), folder(1 << 23));
        let found = find();
        assert!(found.contains(&gone), "{found:?}");
        assert!(!found.contains(&mine), "{found:?}");
    }
}
