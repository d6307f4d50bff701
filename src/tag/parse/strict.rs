//! Objects that are written as objects, with each key once. Serde by itself also reads a struct from a list, and
//! keeps the last of two values with the same key. Pure.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::{Map, Value};

/// A `T` that is written as an object.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Only<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Only<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Only(PhantomData))
    }
}

/// For a member that is an object, if it is there.
pub fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let object: Option<Object<T>> = Option::deserialize(deserializer)?;
    Ok(object.map(|object| object.0))
}

/// For a member that is a list of objects, if it is there.
pub fn objects<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    let list: Option<Vec<Object<T>>> = Option::deserialize(deserializer)?;
    Ok(list.map(|list| list.into_iter().map(|object| object.0).collect()))
}

/// The members of an object, none of which has a key twice, at any depth.
pub struct Members(pub Map<String, Value>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Only;
        impl<'de> Visitor<'de> for Only {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Members, A::Error> {
                members(map).map(Members)
            }
        }
        deserializer.deserialize_map(Only)
    }
}

fn members<'de, A: MapAccess<'de>>(mut map: A) -> Result<Map<String, Value>, A::Error> {
    let mut members = Map::new();
    while let Some(key) = map.next_key::<String>()? {
        if members.contains_key(&key) {
            return Err(A::Error::custom(format_args!("duplicate field `{key}`")));
        }
        let Any(value) = map.next_value()?;
        members.insert(key, value);
    }
    Ok(members)
}

/// Any value whose objects have each key once.
struct Any(Value);

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Every;
        impl<'de> Visitor<'de> for Every {
            type Value = Any;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Any, E> {
                Ok(Any(Value::Null))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Any, E> {
                Ok(Any(value.into()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Any, E> {
                Ok(Any(value.into()))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Any, E> {
                Ok(Any(value.into()))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Any, E> {
                Ok(Any(value.into()))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Any, E> {
                Ok(Any(value.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Any, A::Error> {
                let mut values = Vec::new();
                while let Some(Any(value)) = list.next_element()? {
                    values.push(value);
                }
                Ok(Any(Value::Array(values)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Any, A::Error> {
                Ok(Any(Value::Object(members(map)?)))
            }
        }
        deserializer.deserialize_any(Every)
    }
}
