//! raft-rs speaks slog; we speak tracing.

use slog::{Drain, Level, OwnedKVList, Record};

struct Bridge;

impl Drain for Bridge {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), slog::Never> {
        // raft-rs calls every change of role or configuration "info": that is debugging for us.
        let fields = Fields(record, values);
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(target: "raft", "{fields}"),
            Level::Warning => tracing::warn!(target: "raft", "{fields}"),
            Level::Info => tracing::debug!(target: "raft", "{fields}"),
            Level::Debug | Level::Trace => tracing::trace!(target: "raft", "{fields}"),
        }
        Ok(())
    }

    fn is_enabled(&self, level: Level) -> bool {
        match level {
            Level::Critical | Level::Error => {
                tracing::enabled!(target: "raft", tracing::Level::ERROR)
            }
            Level::Warning => tracing::enabled!(target: "raft", tracing::Level::WARN),
            Level::Info => tracing::enabled!(target: "raft", tracing::Level::DEBUG),
            Level::Debug | Level::Trace => tracing::enabled!(target: "raft", tracing::Level::TRACE),
        }
    }
}

struct Fields<'a>(&'a Record<'a>, &'a OwnedKVList);

impl std::fmt::Display for Fields<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use slog::KV;
        write!(f, "{}", self.0.msg())?;
        let mut text = Text(String::new());
        // Formatting into a string cannot fail.
        let _ = self.0.kv().serialize(self.0, &mut text);
        let _ = self.1.serialize(self.0, &mut text);
        f.write_str(&text.0)
    }
}

struct Text(String);

impl slog::Serializer for Text {
    fn emit_arguments(&mut self, key: slog::Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
        use std::fmt::Write;
        write!(self.0, " {key}={value}").map_err(|_| slog::Error::Other)
    }
}

/// A logger for one group's replica.
pub fn logger(group: &str) -> slog::Logger {
    let group = group.to_owned();
    slog::Logger::root(Bridge, slog::o!("group" => group))
}
