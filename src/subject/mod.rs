//! The people, or devices, that rows are about: their consents.

pub mod consent;
pub mod key;
pub mod lend;
mod record;

pgrx::extension_sql_file!(
    "../../sql/subject.sql",
    name = "subject",
    requires = ["bootstrap", "evidence"]
);
