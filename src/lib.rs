//! pg_custodian: makes a PostgreSQL database keep what its privacy policy promises.
//!
//! `_PG_init` is the table of contents: each module installs its own settings and hooks in `init()`.

use pgrx::prelude::*;

mod anonymize;
mod error;
mod evidence;
mod guard;
mod guc;
mod pg;
mod policy;
mod report;
mod status;
mod subject;
mod tag;
mod worker;

::pgrx::pg_module_magic!(name, version);

/// Tells the SQL generator that the schema exists; `sql/bootstrap.sql` creates it.
#[pg_schema]
mod custodian {}

extension_sql_file!("../sql/bootstrap.sql", name = "bootstrap", bootstrap);
extension_sql_file!("../sql/finalize.sql", name = "finalize", finalize);

#[allow(non_snake_case)]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    guc::init();
    pg::xact::init();
    pg::invalidation::init();
    pg::utility::init();
    pg::object_access::init();
    tag::init();
    policy::declare::init();
    evidence::init();
    guard::row::init();
    guard::init();
    worker::init();
    guard::sentinel::init_standby();
}

#[cfg(any(test, feature = "pg_test"))]
#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    #[pg_test]
    fn extension_is_installed() -> Result<(), pgrx::spi::Error> {
        let version = Spi::get_one::<String>(
            "SELECT extversion FROM pg_extension WHERE extname = 'pg_custodian'",
        )?;
        assert_eq!(version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
        Ok(())
    }
}

/// What `cargo pgrx test` needs at the root of the crate.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec!["shared_preload_libraries = 'pg_custodian'"]
    }
}
