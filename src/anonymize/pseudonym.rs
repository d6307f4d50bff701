//! Pseudonyms: `ps1.<key>.<digest>.<tag>`. Pure.
//!
//! The digest is HMAC-SHA256 over the value, cut to 128 bits, so equal values stay equal under one key and
//! joins remain possible. The tag is HMAC-SHA256 over all that stands before it, cut to 64 bits: what carries
//! a right tag was made by this key, so a pseudonym is recognised without being made again, and no other text
//! is taken for one. `<key>` is the first 32 bits of the key's id. Whoever has the key can test a guess
//! against a pseudonym: it is still personal data.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const PREFIX: &str = "ps1";
const KEY_HEX: usize = 8;
const DIGEST_HEX: usize = 32;
const TAG_HEX: usize = 16;

/// Characters of a pseudonym.
pub const LENGTH: usize = PREFIX.len() + KEY_HEX + DIGEST_HEX + TAG_HEX + 3;

/// A key with its id.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    /// The 16 bytes of the key's UUID.
    pub id: [u8; 16],
    pub secret: Vec<u8>,
}

impl Drop for Key {
    fn drop(&mut self) {
        self.secret.fill(0);
    }
}

fn mac(key: &Key, domain: &[u8], message: &[u8]) -> Option<[u8; 32]> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&key.secret).ok()?;
    mac.update(domain);
    mac.update(&[0]);
    mac.update(message);
    Some(mac.finalize().into_bytes().into())
}

impl Key {
    fn short_id(&self) -> String {
        hex::encode(&self.id[..KEY_HEX / 2])
    }

    fn tag(&self, body: &str) -> Option<String> {
        let tag = mac(self, b"custodian pseudonym tag", body.as_bytes())?;
        Some(hex::encode(&tag[..TAG_HEX / 2]))
    }

    /// The pseudonym of a value.
    pub fn pseudonym(&self, value: &str) -> Option<String> {
        let digest = mac(self, b"custodian pseudonym", value.as_bytes())?;
        let body = format!(
            "{PREFIX}.{}.{}",
            self.short_id(),
            hex::encode(&digest[..DIGEST_HEX / 2])
        );
        let tag = self.tag(&body)?;
        Some(format!("{body}.{tag}"))
    }

    /// Whether this key made the text.
    pub fn made(&self, text: &str) -> bool {
        if text.len() != LENGTH || !text.is_ascii() {
            return false;
        }
        let Some((body, tag)) = text.rsplit_once('.') else {
            return false;
        };
        if !body.starts_with(&format!("{PREFIX}.{}.", self.short_id())) {
            return false;
        }
        let Some(expected) = self.tag(body) else {
            return false;
        };
        // Every byte is compared, so that the time taken does not tell where a guess went wrong.
        expected.len() == tag.len()
            && expected
                .bytes()
                .zip(tag.bytes())
                .fold(0, |difference, (a, b)| difference | (a ^ b))
                == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(seed: u8) -> Key {
        Key {
            id: [seed; 16],
            secret: vec![seed; 32],
        }
    }

    #[test]
    fn equal_values_stay_equal_and_others_do_not() {
        let one = key(1).pseudonym("a@example.org");
        assert_eq!(one, key(1).pseudonym("a@example.org"));
        assert_ne!(one, key(1).pseudonym("b@example.org"));
        assert_ne!(one, key(2).pseudonym("a@example.org"));
        assert_eq!(one.map(|text| text.len()), Some(LENGTH));
    }

    #[test]
    fn only_its_own_key_recognises_a_pseudonym() {
        let text = key(1).pseudonym("Wang Fang").unwrap_or_default();
        assert!(key(1).made(&text));
        assert!(!key(2).made(&text));
        assert!(!key(1).made("Wang Fang"));
        assert!(!key(1).made(&"x".repeat(LENGTH)));
        let mut same_id = key(2);
        same_id.id = [1; 16];
        assert!(!same_id.made(&text));
    }

    #[test]
    fn a_changed_pseudonym_is_no_pseudonym() {
        let text = key(1).pseudonym("Wang Fang").unwrap_or_default();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            let changed = String::from_utf8(bytes).unwrap_or_default();
            assert!(!key(1).made(&changed), "{at}");
        }
    }

    #[test]
    fn no_text_fits_in_between() {
        assert_eq!(LENGTH, 62);
    }

    proptest! {
        #[test]
        fn every_pseudonym_is_recognised_by_its_key_alone(value in ".{0,40}", seed in any::<u8>(), other in any::<u8>()) {
            let text = key(seed).pseudonym(&value).unwrap_or_default();
            prop_assert_eq!(text.len(), LENGTH);
            prop_assert!(key(seed).made(&text));
            prop_assert_eq!(key(other).made(&text), seed == other);
        }

        #[test]
        fn no_other_text_is_taken_for_one(text in prop_oneof![".{0,80}", "ps1[.]01010101[.][0-9a-f]{32}[.][0-9a-f]{16}"]) {
            prop_assert!(!key(1).made(&text));
        }
    }
}
