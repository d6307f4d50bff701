//! Archive lanes: approved openings for `archive_command` to ship WAL to a place outside.
//!
//! [`model`] decides and knows no server. A lane is for one exact command, region and organisation ([`open`]). WAL is
//! physical: it has all databases with all rows, so each of them needs a lane, under a transfer that covers everything in it
//! ([`qualify`]). Each scheduler reports what its database allows, and the launcher puts these together ([`watch`]), in
//! files that the gate on settings reads ([`disk`]): it decides in the postmaster, where no table can be read.
//! [`ending`] sees to it that what ended is not in force any more, and [`telling`] that who is about to end it knows.

mod disk;
mod ending;
mod model;
mod open;
mod qualify;
mod standing;
mod store;
pub mod telling;
mod watch;

pub use ending::Ending;
pub use open::{close_all_of, close_one};
pub use standing::{at_start, before_label, endings, fault, findings, forget, has_ended};
pub use watch::{Reporter, Watch, close, pause_on_report};
