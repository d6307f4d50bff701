//! The pure parts of the extension's guard, of which this program needs some.
#![allow(dead_code, unused_imports)]

#[path = "../../../src/guard/files.rs"]
pub mod files;
#[path = "../../../src/guard/rules/mod.rs"]
pub mod rules;
#[path = "../../../src/guard/verdict.rs"]
pub mod verdict;
