//! YAML within bounds: size, nesting, aliases; merge keys resolved. Pure.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde_yaml::{Mapping, Value};

const MAX_BYTES: usize = 1 << 20;
const MAX_DEPTH: usize = 256;
/// Reading is quadratic in brackets that are open at one place, and quotes can hide closing ones from a simple count, so that the
/// total is bounded as well. No compose file comes near.
const MAX_BRACKETS: usize = 10_000;
/// Each alias counted with all that it stands for: a short text can stand for gigabytes.
const MAX_NODES: usize = 100_000;

#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    Large(usize),
    Deep { line: usize },
    Brackets,
    Nodes,
    Syntax(String),
    Merge,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Large(bytes) => write!(f, "{bytes} bytes; at most {MAX_BYTES} (1 MiB) are read"),
            Error::Deep { line } => {
                write!(f, "line {line}: brackets nested more than {MAX_DEPTH} deep")
            }
            Error::Brackets => write!(f, "more than {MAX_BRACKETS} opening brackets"),
            Error::Nodes => write!(f, "more than {MAX_NODES} values once its aliases are written out"),
            Error::Syntax(text) => write!(f, "not readable as YAML: {text}"),
            Error::Merge => write!(f, "a merge key `<<` needs a mapping or a list of mappings (`<<: *name`)"),
        }
    }
}

impl std::error::Error for Error {}

/// One document. Empty text is null. Equal keys in one mapping are an error.
pub fn read(text: &str) -> Result<Value, Error> {
    within_bounds(text)?;
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    let value: Value = serde_yaml::from_str(text).map_err(|error| Error::Syntax(error.to_string()))?;
    merged(value)
}

/// Whether whoever reads it ends soon, and with little memory. It may be several documents.
pub fn within_bounds(text: &str) -> Result<(), Error> {
    few_brackets(text)?;
    let left = Cell::new(MAX_NODES);
    for document in serde_yaml::Deserializer::from_str(text) {
        if let Err(error) = Count(&left).deserialize(document) {
            return Err(if left.get() == 0 { Error::Nodes } else { Error::Syntax(error.to_string()) });
        }
    }
    Ok(())
}

/// Counts values down, and keeps none.
#[derive(Clone, Copy)]
struct Count<'a>(&'a Cell<usize>);

impl<'de> DeserializeSeed<'de> for Count<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        match self.0.get().checked_sub(1) {
            Some(left) if left > 0 => self.0.set(left),
            _ => {
                self.0.set(0);
                return Err(D::Error::custom("too many values"));
            }
        }
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Count<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i128<E>(self, _: i128) -> Result<(), E> {
        Ok(())
    }

    fn visit_u128<E>(self, _: u128) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        value.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key_seed(self)?.is_some() {
            map.next_value_seed(self)?;
        }
        Ok(())
    }

    /// A tagged value.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<(), A::Error> {
        tagged.variant::<String>()?.1.newtype_variant_seed(self)
    }
}

fn few_brackets(text: &str) -> Result<(), Error> {
    if text.len() > MAX_BYTES {
        return Err(Error::Large(text.len()));
    }
    let (mut depth, mut total, mut line) = (0usize, 0usize, 1usize);
    for byte in text.bytes() {
        match byte {
            b'\n' => line += 1,
            b'[' | b'{' => {
                depth += 1;
                total += 1;
                if depth > MAX_DEPTH {
                    return Err(Error::Deep { line });
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    if total > MAX_BRACKETS {
        return Err(Error::Brackets);
    }
    Ok(())
}

/// Children first; a mapping's own keys win, then the sources in their order.
fn merged(value: Value) -> Result<Value, Error> {
    Ok(match value {
        Value::Sequence(items) => Value::Sequence(items.into_iter().map(merged).collect::<Result<_, _>>()?),
        Value::Mapping(map) => {
            let mut own = Mapping::with_capacity(map.len());
            let mut sources = Vec::new();
            for (key, value) in map {
                let value = merged(value)?;
                if key.as_str() != Some("<<") {
                    own.insert(key, value);
                    continue;
                }
                match value {
                    Value::Mapping(source) => sources.push(source),
                    Value::Sequence(list) => {
                        for item in list {
                            let Value::Mapping(source) = item else {
                                return Err(Error::Merge);
                            };
                            sources.push(source);
                        }
                    }
                    Value::Null => {}
                    _ => return Err(Error::Merge),
                }
            }
            for (key, value) in sources.into_iter().flatten() {
                if !own.contains_key(&key) {
                    own.insert(key, value);
                }
            }
            Value::Mapping(own)
        }
        Value::Tagged(tagged) => merged(tagged.value)?,
        plain => plain,
    })
}

/// What a value is, for messages.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "a mapping",
        Value::Tagged(_) => "a tagged value",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> String {
        serde_json::to_string(&read(text).unwrap()).unwrap()
    }

    #[test]
    fn merge_keys() {
        assert_eq!(
            json("a: &a {x: 1, y: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b, z: 3}"),
            r#"{"a":{"x":1,"y":1},"b":{"y":2,"x":1},"c":{"z":3,"y":2,"x":1}}"#
        );
        assert_eq!(json("a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc: [{<<: [*a, *b]}]"), r#"{"a":{"x":1},"b":{"x":2,"y":2},"c":[{"x":1,"y":2}]}"#);
        assert_eq!(read("a: {<<: 1}"), Err(Error::Merge));
        assert_eq!(read("a: {<<: [1]}"), Err(Error::Merge));
    }

    #[test]
    fn scalars_and_tags() {
        assert_eq!(json("[on, yes, 22:22, '1', 1, ~, !any {a: 1}]"), r#"["on","yes","22:22","1",1,null,{"a":1}]"#);
        assert_eq!(json(""), "null");
    }

    #[test]
    fn refused() {
        let error = |text: &str| read(text).unwrap_err().to_string();
        assert_eq!(error("a: 1\nb: 2\na: 3\n"), "not readable as YAML: duplicate entry with key \"a\"");
        assert!(error("a: [1\nb").contains("line"));
        assert!(error("a: 1\n---\nb: 1").contains("more than one document"));
        assert_eq!(error(&"[".repeat(100_000)), "line 1: brackets nested more than 256 deep");
        assert_eq!(error(&format!("\"{}\"", "[]".repeat(10_001))), "more than 10000 opening brackets");
        assert_eq!(error(&" ".repeat(MAX_BYTES + 1)), "1048577 bytes; at most 1048576 (1 MiB) are read");
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for n in 1..12 {
            let list = format!("*a{},", n - 1).repeat(9);
            bomb.push_str(&format!("a{n}: &a{n} [{list}]\n"));
        }
        assert_eq!(error(&bomb), "more than 100000 values once its aliases are written out");
        let table = |keys: usize, aliases: usize| {
            let keys: String = (0..keys).map(|n| format!("k{n}: v, ")).collect();
            let aliases: String = (0..aliases).map(|n| format!("n{n}: *m\n")).collect();
            format!("x: &m {{{keys}}}\n{aliases}")
        };
        assert_eq!(error(&table(2_000, 10_000)), "more than 100000 values once its aliases are written out");
        assert_eq!(within_bounds(&table(200, 200)), Ok(()));
        assert_eq!(within_bounds("a: 1\n---\nb: !reset [1]\n"), Ok(()), "several documents, and compose's tags");
    }

    /// Hostile texts end in bounded time; the slowest here takes a fraction of a second even unoptimised.
    #[test]
    fn hostile_texts_end() {
        let start = std::time::Instant::now();
        for text in [
            "[\"]\"".repeat(9_999),
            "- ".repeat(100_000),
            "? ".repeat(100_000),
            "&a ".repeat(100_000),
            "!a ".repeat(100_000),
            "a: ".repeat(100_000),
            "\"".repeat(100_001),
            "*".repeat(100_000),
            (0..20_000).map(|n| format!("{n}:\n")).collect(),
            (0..1_000).map(|n| format!("{}a:\n", " ".repeat(n))).collect(),
        ] {
            let read = read(&text).is_ok();
            println!("{:?} {read} {:?}", &text[..8], start.elapsed());
        }
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }
}
