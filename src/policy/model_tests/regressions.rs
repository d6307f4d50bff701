//! Worlds that were once decided wrongly, by name.
