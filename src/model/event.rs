//! What Consul's event watch writes to the handler's standard input: a JSON list of events, each checked by itself.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::json;
use super::names::OrderId;
use super::order::{EVENTS, Refused, Request};

/// Of a decoded payload.
const MAX_PAYLOAD: usize = 64 * 1024;

/// An event as Consul gives it; its other members do not matter here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Event {
    #[serde(rename = "ID")]
    pub id: OrderId,
    pub name: String,
    /// Base64; null when the event was fired without one.
    #[serde(default)]
    pub payload: Option<String>,
    /// Since when it waits in an inbox; Consul says nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// What an event asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    /// The whole request is in the payload.
    Request(Request),
    /// The order is in Consul already, the event only rings the bell.
    Order(OrderId),
}

/// What is wrong with standard input.
#[derive(Debug)]
pub enum Error {
    NotAList(serde_json::Error),
    NoEvent { at: usize, of: usize, source: serde_json::Error },
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::NotAList(source) => write!(f, "standard input is not a JSON list of events: {source}"),
            Error::NoEvent { at, of, source } => write!(f, "event {at} of {of}: {source}"),
        }
    }
}

/// Standard input: the events, each whole or with what is wrong with it. An error is about the input as a whole.
pub fn parse(input: &str) -> Result<Vec<Result<Event, Error>>, Error> {
    let list: Vec<Value> = serde_json::from_str(input).map_err(Error::NotAList)?;
    let of = list.len();
    let event = |(at, value)| json::from(value).map_err(|source| Error::NoEvent { at: at + 1, of, source });
    Ok(list.into_iter().enumerate().map(event).collect())
}

impl Event {
    pub fn asked(&self) -> Result<Asked, Refused> {
        if !EVENTS.contains(&&*self.name) {
            return Err(Refused::UnknownEvent { event: self.name.clone() });
        }
        let encoded = self.payload.as_deref().unwrap_or("");
        if encoded.is_empty() {
            return Err(Refused::NoPayload);
        }
        if encoded.len() > MAX_PAYLOAD.div_ceil(3) * 4 {
            return Err(Refused::LongPayload { most: MAX_PAYLOAD });
        }
        let bytes = STANDARD.decode(encoded).map_err(Refused::NotBase64)?;
        asked(&self.name, std::str::from_utf8(&bytes).map_err(Refused::NotUtf8)?)
    }
}

/// From an event's name and its decoded payload.
pub fn asked(name: &str, payload: &str) -> Result<Asked, Refused> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Short {
        order: OrderId,
    }
    match serde_json::from_str::<Value>(payload) {
        Ok(value) if value.get("order").is_some() => {
            json::from(value).map(|short: Short| Asked::Order(short.order)).map_err(|source| Refused::Member { member: None, source })
        }
        _ => Request::parse(name, payload).map(Asked::Request),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "908f76a8-0000-0000-0000-000000000001";

    fn event(payload: Value) -> Result<Asked, Refused> {
        let input = serde_json::json!([{"ID": ID, "Name": "destroy", "Payload": payload, "Version": 1}]).to_string();
        parse(&input).unwrap().remove(0).unwrap().asked()
    }

    #[test]
    fn what_is_no_list_of_events_is_refused_as_a_whole() {
        for bad in ["", "{}", "null", "[", "\"x\"", "[] []"] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.starts_with("standard input is not a JSON list of events: "), "{error}");
        }
        assert_eq!(parse("[]").unwrap().len(), 0);
    }

    #[test]
    fn a_bad_event_does_not_hide_the_next_one() {
        let input = format!(r#"[3, {{"ID": "x", "Name": "deploy"}}, {{"ID": "{ID}", "Name": "deploy", "Payload": null}}]"#);
        let events = parse(&input).unwrap();
        assert_eq!(events[0].as_ref().unwrap_err().to_string(), "event 1 of 3: invalid type: integer `3`, expected struct Event");
        assert!(events[1].as_ref().unwrap_err().to_string().starts_with("event 2 of 3: \"x\": not a UUID"));
        assert_eq!(events[2].as_ref().unwrap().name, "deploy");
    }

    #[test]
    fn payloads() {
        let encoded = |text: &[u8]| Value::from(STANDARD.encode(text));
        let error = |payload| event(payload).unwrap_err().to_string();
        assert_eq!(error(Value::Null), "payload: empty; expected a JSON object");
        assert_eq!(error("".into()), "payload: empty; expected a JSON object");
        assert_eq!(error("*".into()), "payload: not base64: Invalid symbol 42, offset 0.");
        assert_eq!(error(encoded(b"\xff")), "payload: not UTF-8: invalid utf-8 sequence of 1 bytes from index 0");
        assert_eq!(error(encoded(&[b' '; MAX_PAYLOAD + 3])), "payload: longer than 65536 bytes");
        assert!(error(encoded(b"{")).starts_with("payload: not JSON: "));
        assert_eq!(error(encoded(br#"{"order":"x"}"#)), "payload: \"x\": not a UUID (8-4-4-4-12 hexadecimal digits)");
        assert!(matches!(event(encoded(br#"{"repo":"/r","branch":"b"}"#)), Ok(Asked::Request(Request::Destroy(_)))));
        let order = OrderId::try_from(ID.to_string()).unwrap();
        assert_eq!(event(encoded(format!(r#"{{"order":"{ID}"}}"#).as_bytes())).unwrap(), Asked::Order(order));
    }
}
