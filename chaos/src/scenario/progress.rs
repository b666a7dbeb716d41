//! Telling what goes on: one line that changes on a terminal, plain lines elsewhere.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a plain line tells of progress within a step.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// Tells people how far the run is.
pub struct Progress {
    bar: Option<ProgressBar>,
    began: Instant,
    told: Cell<Instant>,
}

impl Progress {
    /// Begins.
    pub fn new() -> Progress {
        let bar = std::io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} [{elapsed}] {wide_msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        let began = Instant::now();
        Progress { bar, began, told: Cell::new(began) }
    }

    /// Something that stays on the screen.
    pub fn say(&self, text: &str) {
        let line = format!("[{:6.1} s] {text}", self.began.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => bar.println(line),
            None => println!("{line}"),
        }
        self.told.set(Instant::now());
    }

    /// How things are right now.
    pub fn now(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None if self.told.get().elapsed() >= PLAIN_EVERY => self.say(text),
            None => {}
        }
    }

    /// Leaves the screen to the table.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
