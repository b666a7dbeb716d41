//! The command that repeats a run: it can be pasted in a checkout of the commit that was built. Pure.

use std::fmt::Write as _;

/// What `make` gives by itself or has a variable for, and where files are put. Each has a value.
const NOT_REPEATED: [&str; 8] =
    ["--bin-dir", "--commit", "--report", "--html", "--keep-logs", "--seed", "--seeds", "--faults"];

/// A target of the Makefile, and what else its program was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Again {
    target: &'static str,
    others: String,
}

impl Again {
    /// Of a run whose program was given these arguments, its own name and the subcommand first.
    pub fn of(target: &'static str, arguments: impl Iterator<Item = String>) -> Again {
        let mut others = Vec::new();
        let mut arguments = arguments.skip(2);
        while let Some(argument) = arguments.next() {
            let (name, value) = argument.split_once('=').unzip();
            match NOT_REPEATED.contains(&name.unwrap_or(&argument)) {
                false => others.push(argument),
                true if value.is_some() => {}
                true => drop(arguments.next()),
            }
        }
        Again { target, others: words(&others) }
    }

    /// The command with these variables; empty ones are left out.
    pub fn command(&self, variables: &[(&str, String)]) -> String {
        let mut text = format!("make {}", self.target);
        for (name, value) in variables.iter().filter(|(_, value)| !value.is_empty()) {
            write!(text, " {name}={}", quoted(value)).ok();
        }
        if !self.others.is_empty() {
            // To make a dollar sign is the beginning of a variable.
            write!(text, " ARGS={}", quoted(&self.others.replace('$', "$$"))).ok();
        }
        text
    }
}

/// Where the command has to be run, for people.
pub fn checkout(commit: &str) -> String {
    match commit.strip_suffix("-dirty") {
        Some(commit) => {
            format!("in a checkout of commit {commit} with the changes that were not committed")
        }
        None if ["", "unknown"].contains(&commit) => {
            "in a checkout of the same commit (nobody told which)".into()
        }
        None => format!("in a checkout of commit {commit}"),
    }
}

/// A line that a shell reads as these words.
fn words(words: &[String]) -> String {
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(arguments: &str) -> Again {
        let program = ["/somewhere/holdfast-chaos", "demo"].map(str::to_owned);
        Again::of("demo", program.into_iter().chain(arguments.split(' ').map(str::to_owned)))
    }

    #[test]
    fn what_make_gives_by_itself_is_not_repeated() {
        let text = again("--bin-dir /x/release --seed 7 --commit=abc --report r.json")
            .command(&[("SEED", "7".into()), ("FAULTS", String::new())]);
        assert_eq!(text, "make demo SEED=7");
    }

    #[test]
    fn what_it_does_not_give_is() {
        let of = |text| again(text).command(&[("SEED", "7".into())]);
        assert_eq!(of("--no-inject --seed=7"), "make demo SEED=7 ARGS=--no-inject");
        let two = of("--seed 7 --steps kill-daemon,add-node --young 420");
        assert_eq!(two, "make demo SEED=7 ARGS='--steps kill-daemon,add-node --young 420'");
    }

    #[test]
    fn a_shell_and_make_read_it_as_it_was() {
        let line = ["--seed", "7", "it's here", "$x", ""].map(str::to_owned);
        assert_eq!(words(&line), r"--seed 7 'it'\''s here' '$x' ''");
        let odd = Again { target: "demo", others: words(&line[3..4]) };
        assert_eq!(odd.command(&[]), r"make demo ARGS=''\''$$x'\'''");
    }

    #[test]
    fn a_tree_with_changes_is_not_the_commit() {
        assert_eq!(checkout("0123456789ab"), "in a checkout of commit 0123456789ab");
        let dirty = checkout("0123456789ab-dirty");
        assert!(dirty.ends_with("commit 0123456789ab with the changes that were not committed"));
        assert!(checkout("unknown").contains("nobody told"));
    }
}
