//! The closed set of methods by which a cell is disposed. Each is idempotent: a cell is disposed when the
//! method leaves it as it is. No user SQL is ever part of one.

use serde::{Deserialize, Serialize};

/// What a date or timestamp is truncated to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatePart {
    Month,
    Year,
}

/// A method, as tags write it: `"set_null"`, `"hmac"`, `"network"`, or an object with one key:
/// `{"constant":"…"}`, `{"truncate":"month"}`, `{"prefix":3}`, `{"generalize":10}`, `{"mask":2}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// NULL.
    SetNull,
    /// A fixed value, in the text form of the column's type.
    Constant(String),
    /// A keyed pseudonym that carries its key's id and authenticates itself. Still personal data.
    Hmac,
    /// A date or timestamp at the start of its month or year.
    Truncate(DatePart),
    /// The first characters of a text.
    Prefix(u16),
    /// An IP address's network: /24 for IPv4, /48 for IPv6.
    Network,
    /// A number rounded down to a multiple.
    Generalize(u32),
    /// A text of `*` but for the last characters.
    Mask(u16),
}
