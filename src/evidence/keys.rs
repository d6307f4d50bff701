//! Keys of this database: made here, kept in a revoked table, moved by export and import, never by dumps.
//!
//! `custodian.key_ref` says which keys the configuration knows and travels with it; `custodian.secret` holds
//! the keys and stays. A database that knows a key without having it is disarmed: it must not make
//! pseudonyms that differ from those of its origin.

use hmac::{Hmac, KeyInit, Mac};
use pgrx::Uuid;
use pgrx::prelude::*;
use serde_json::json;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::error::{Error, Kind, Result};
use crate::evidence::keyfile::{self, Exported};
use crate::evidence::ledger;
use crate::pg::activity::Statement;
use crate::pg::report::SqlResult;
use crate::pg::{random, relation, sandbox, spi};

/// Bytes of a key.
const LENGTH: usize = 32;

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// The anonymization method `hmac`.
    Pseudonym,
    /// Digests of subject keys in the ledger.
    Ledger,
}

impl Use {
    pub const ALL: [Use; 2] = [Use::Pseudonym, Use::Ledger];

    pub const fn as_str(self) -> &'static str {
        match self {
            Use::Pseudonym => "pseudonym",
            Use::Ledger => "ledger",
        }
    }
}

/// A key with its secret, which is wiped from memory when this is dropped.
pub struct Key {
    pub id: Uuid,
    pub secret: Zeroizing<Vec<u8>>,
}

/// The key in use: the one that was last made by rotation; without any, the oldest one that came from elsewhere,
/// otherwise the oldest one made here. So a restored database goes on with the key of its origin, and not with
/// the one that was made when the extension was created there. `None` when its secret is missing.
pub fn active(usage: Use) -> Result<Option<Key>> {
    Ok(known(usage)?.into_iter().next().flatten())
}

/// Every key of this database for a use, the one in use first.
pub fn all(usage: Use) -> Result<Vec<Key>> {
    Ok(known(usage)?.into_iter().flatten().collect())
}

/// The keys that the configuration knows, the one in use first; `None` for each whose secret is missing.
fn known(usage: Use) -> Result<Vec<Option<Key>>> {
    // Before the extension is updated to 0.2.0, the table has no rotated_at.
    sandbox::as_extension_owner(|| {
        spi::select(
            "SELECT r.key_id, s.key FROM custodian.key_ref r LEFT JOIN custodian.secret s USING (key_id)
             WHERE r.use = $1
             ORDER BY (to_jsonb(r) ->> 'rotated_at')::timestamptz DESC NULLS LAST, s.key_id IS NOT NULL AND s.imported_at IS NULL, r.created_at, r.key_id",
            &[usage.as_str().into()],
            |row| {
                let id = row.must(1)?;
                Ok(row.get(2)?.map(|secret| Key {
                    id,
                    secret: Zeroizing::new(secret),
                }))
            },
        )
    })
}

/// Keys that the configuration knows and this database does not have.
pub fn missing() -> Result<Vec<Uuid>> {
    sandbox::as_extension_owner(|| {
        spi::select(
            "SELECT r.key_id FROM custodian.key_ref r
             WHERE NOT EXISTS (SELECT FROM custodian.secret s WHERE s.key_id = r.key_id)
             ORDER BY r.created_at, r.key_id",
            &[],
            |row| row.must(1),
        )
    })
}

/// Whether this database has every key that its configuration knows, and one for each use. While it has not,
/// no pseudonym may be made here.
pub fn armed() -> Result<bool> {
    if !missing()?.is_empty() {
        return Ok(false);
    }
    for usage in Use::ALL {
        if active(usage)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn mac(secret: &[u8], kind: &str, parts: &[&str]) -> Result<[u8; LENGTH]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).map_err(Error::internal)?;
    mac.update(b"pg_custodian subject\0");
    // Each part behind its length: ("ab", "c") and ("a", "bc") must differ.
    for part in std::iter::once(&kind).chain(parts) {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part.as_bytes());
    }
    Ok(mac.finalize().into_bytes().into())
}

/// What stands for a subject's key in the ledger: `key id:HMAC-SHA-256`, the second part in hexadecimal, over
/// the kind of subject and the parts of its key. Still personal data for whoever has the ledger's key; that
/// is why destroying that key ends it. `None` when the key is missing.
pub fn digest(kind: &str, parts: &[&str]) -> Result<Option<String>> {
    match active(Use::Ledger)? {
        Some(key) => digest_with(&key, kind, parts).map(Some),
        None => Ok(None),
    }
}

/// The same with a key that is known, for whoever compares many.
pub fn digest_with(key: &Key, kind: &str, parts: &[&str]) -> Result<String> {
    let mac = mac(&key.secret, kind, parts)?;
    Ok(format!(
        "{}:{}",
        keyfile::uuid_text(key.id.as_bytes()),
        hex::encode(mac)
    ))
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0u8; N]);
    if random::fill(bytes.as_mut_slice()) {
        Ok(bytes)
    } else {
        Err(Error::internal("the server has no random numbers to give"))
    }
}

fn require_superuser(action: &str) -> Result<()> {
    if relation::is_superuser() {
        return Ok(());
    }
    Err(Error::new(
        Kind::InsufficientPrivilege,
        format!("must be superuser to {action}"),
    )
    .hint("Keys are worth what the pseudonyms are worth that they protect. Ask a superuser."))
}

fn store(id: Uuid, secret: &[u8], imported: bool) -> Result<()> {
    spi::execute(
        "INSERT INTO custodian.secret (key_id, key, imported_at)
         VALUES ($1, $2, CASE WHEN $3 THEN clock_timestamp() END)",
        &[id.into(), secret.to_vec().into(), imported.into()],
    )?;
    Ok(())
}

/// Makes a key; its id. As the extension's owner.
fn make(usage: Use) -> Result<Uuid> {
    let mut id = *random::<16>()?;
    // RFC 9562, version 4.
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    let secret = random::<LENGTH>()?;
    spi::execute(
        "INSERT INTO custodian.key_ref (key_id, use, fingerprint) VALUES ($1, $2, $3)",
        &[
            Uuid::from_bytes(id).into(),
            usage.as_str().into(),
            keyfile::fingerprint(&id, secret.as_slice()).into(),
        ],
    )?;
    let id = Uuid::from_bytes(id);
    store(id, secret.as_slice(), false)?;
    Ok(id)
}

/// Makes a new key for the method `hmac` and returns its id: pseudonyms are made with it from now on. Those that
/// earlier keys made stay as they are and are still recognised, since their keys stay; equal values get different
/// pseudonyms before and after. For data stewards.
///
/// Errors: 42501 for anyone but a steward, 55000 while a key is missing.
#[pg_extern(schema = "custodian")]
fn rotate_pseudonym_key() -> SqlResult<String> {
    relation::require_steward("rotate the key of pseudonyms")?;
    if !armed()? {
        return Err(Error::new(
            Kind::NotInPrerequisiteState,
            "a key of this database is missing",
        )
        .hint("Import the keys with custodian.import_keys(), from the database that this one was restored from.")
        .into());
    }
    let id = sandbox::as_extension_owner(|| {
        let id = make(Use::Pseudonym)?;
        spi::execute(
            "UPDATE custodian.key_ref SET rotated_at = clock_timestamp() WHERE key_id = $1",
            &[id.into()],
        )?;
        let id = keyfile::uuid_text(id.as_bytes());
        ledger::append("key.rotated", &id, json!({"use": Use::Pseudonym.as_str()}))?;
        Ok(id)
    })?;
    notice!("have a superuser export the keys again: earlier exports lack the new one");
    Ok(id)
}

/// Makes a key for each use that has none; returns how many were made. CREATE EXTENSION calls it once.
/// For superusers.
#[pg_extern(schema = "custodian")]
fn create_missing_keys() -> SqlResult<i32> {
    require_superuser("create keys")?;
    let made = sandbox::as_extension_owner(|| {
        let mut made = 0;
        for usage in Use::ALL {
            let known = spi::write(
                "SELECT EXISTS (SELECT FROM custodian.key_ref WHERE use = $1)",
                &[usage.as_str().into()],
                |row| row.must::<bool>(1),
            )?;
            if known.first() == Some(&true) {
                continue;
            }
            let id = keyfile::uuid_text(make(usage)?.as_bytes());
            ledger::append("key.created", &id, json!({"use": usage.as_str()}))?;
            made += 1;
        }
        Ok(made)
    })?;
    Ok(made)
}

/// The keys of this database, as text for `custodian.import_keys()`. Whoever has it can link every pseudonym
/// to its value again. For superusers.
#[pg_extern(schema = "custodian")]
fn export_keys() -> SqlResult<String> {
    require_superuser("export keys")?;
    let absent = missing()?;
    if let Some(id) = absent.first() {
        return Err(Error::new(
            Kind::NotInPrerequisiteState,
            "keys of this database are missing",
        )
        .detail(format!(
            "Missing: {}; the first is {}.",
            absent.len(),
            keyfile::uuid_text(id.as_bytes())))
        .hint("Import them first, from the database that this one was restored from, with custodian.import_keys().")
        .into());
    }
    let keys = sandbox::as_extension_owner(|| {
        spi::select(
            "SELECT r.key_id, r.use, r.fingerprint, s.key
             FROM custodian.key_ref r JOIN custodian.secret s USING (key_id) ORDER BY r.created_at, r.key_id",
            &[],
            |row| {
                Ok(Exported {
                    id: *row.must::<Uuid>(1)?.as_bytes(),
                    usage: row.must(2)?,
                    fingerprint: row.must(3)?,
                    secret: Zeroizing::new(row.must(4)?),
                })
            },
        )
    })?;
    ledger::append("key.exported", "", json!({"keys": keys.len()}))?;
    notice!("keep this text as safe as the data: with it, every pseudonym can be linked again");
    Ok(keyfile::write(&keys).to_string())
}

/// Stores the keys of a text of `custodian.export_keys()`; returns how many this database did not have yet.
/// A key that its configuration does not know, or whose fingerprint differs, is refused. For superusers.
#[pg_extern(schema = "custodian")]
fn import_keys(mut keys: String) -> SqlResult<i32> {
    // The statement holds the keys: do not show it to whoever may see the activity of other sessions, nor to
    // whoever reads the log, where an error comes with its statement, and with those of functions as its context.
    let hidden = Statement::hide(c"SELECT custodian.import_keys(…)");
    require_superuser("import keys")?;
    let parsed = keyfile::read(&keys);
    keys.zeroize();
    let parsed = parsed?;
    let imported = sandbox::as_extension_owner(|| {
        let mut imported = 0;
        for key in &parsed {
            imported += i32::from(import(key)?);
        }
        Ok(imported)
    })?;
    if imported > 0 {
        ledger::append("key.imported", "", json!({"keys": imported}))?;
    }
    // After an error they stay hidden, for its report.
    hidden.show();
    Ok(imported)
}

/// Whether the key was new to this database.
fn import(key: &Exported) -> Result<bool> {
    let id = keyfile::uuid_text(&key.id);
    let known = spi::write(
        "SELECT r.use, r.fingerprint, EXISTS (SELECT FROM custodian.secret s WHERE s.key_id = r.key_id)
         FROM custodian.key_ref r WHERE r.key_id = $1",
        &[Uuid::from_bytes(key.id).into()],
        |row| Ok((row.must::<String>(1)?, row.must::<String>(2)?, row.must::<bool>(3)?)),
    )?;
    let Some((usage, fingerprint, present)) = known.into_iter().next() else {
        return Err(Error::new(
            Kind::UndefinedObject,
            format!("key {id} is not known to this database"),
        )
        .hint("Restore the configuration first: pg_dump carries the list of keys, and import_keys() adds the keys themselves."));
    };
    let actual = keyfile::fingerprint(&key.id, &key.secret);
    if usage != key.usage || fingerprint != actual || key.fingerprint != actual {
        return Err(Error::new(
            Kind::InvalidParameter,
            format!("key {id} is not the key that this database knows by that id"),
        )
        .detail("Its use or its fingerprint differs.")
        .hint("Export the keys again from the database that this one was restored from."));
    }
    if present {
        return Ok(false);
    }
    store(Uuid::from_bytes(key.id), &key.secret, true)?;
    Ok(true)
}

#[cfg(test)]
mod pure {
    use super::*;

    #[test]
    fn digests_depend_on_every_part_and_on_where_it_ends() {
        let of = |kind: &str, parts: &[&str]| mac(&[7; LENGTH], kind, parts).expect("a digest");
        assert_eq!(of("customer", &["1"]), of("customer", &["1"]));
        assert_ne!(of("customer", &["ab", "c"]), of("customer", &["a", "bc"]));
        assert_ne!(of("customer", &["1"]), of("customers", &["1"]));
        assert_ne!(of("customer", &["1"]), of("customer", &["1", ""]));
        let other = mac(&[8; LENGTH], "customer", &["1"]).expect("a digest");
        assert_ne!(of("customer", &["1"]), other);
    }
}
