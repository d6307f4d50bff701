//! The policy as one document: exported, compared, applied, and kept as it was at every epoch.

pub mod apply;
pub mod diff;
mod duration;
mod functions;
pub mod history;
pub mod parse;
#[cfg(test)]
mod properties;
pub mod read;
pub mod state;
mod subscribers;

/// Registers what keeps the policy of every epoch.
pub fn init() {
    history::init();
}
