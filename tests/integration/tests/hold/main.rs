//! Legal holds and statutory minimums on a real cluster, with concurrent sessions: what destroys kept rows is
//! refused, whoever tries, and by whatever way.

mod concurrent;
mod destroying;
mod detaching;
mod lasting;
mod reach;
mod shop;
