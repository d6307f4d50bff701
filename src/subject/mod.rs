//! The people, or devices, that rows are about: their consents and their erasure.

pub mod consent;
mod erase;
mod erase_again;
pub mod erase_look;
pub mod key;
pub mod lend;
pub mod lend_erasures;
mod record;

pgrx::extension_sql_file!(
    "../../sql/subject.sql",
    name = "subject",
    requires = ["bootstrap", "evidence"]
);
