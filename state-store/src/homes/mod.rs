//! Homes: directors that keep each other's young sessions, so that those outlive their director.
//!
//! Pure cores: records, times and messages come in, answers and messages go out.
//!
//! - [`Saying`] is an owner's side: which sessions it tells which home, in which batches.
//! - [`Keeper`] is a home's: [`Young`] holds the records, [`Confirmed`] knows whether every owner has
//!   told this home everything it has to know.
//! - [`Asking`] is for whoever meets a packet of an unknown session; [`Whom`] it asks.
//!
//! Which director is a home of what is [`holdfast_schema::homes`].

/// What the simulation switches off to prove that it notices. No daemon has it.
#[cfg(feature = "simulation")]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Without {
    /// Nothing is registered.
    pub registration: bool,
    /// Two sessions of one opening are not recognised.
    pub twins: bool,
    /// Every home's *no* counts.
    pub authority: bool,
}

mod asking;
mod confirmed;
mod keeper;
mod saying;
mod whom;
mod young;

pub use asking::{Answer, Asking, known};
pub use confirmed::{Confirmed, Heading};
pub use keeper::{Consequences, Keeper, KeeperStats, Kept};
pub use saying::{BEAT_MS, Homes, INTERVAL_MS, Saying, SayingStats};
pub use whom::{Whom, bucket_of};
pub use young::{KEPT_MS, Orphan, Registered, Young};
