//! What Consul's event watch writes to the handler's standard input: a JSON list of events, each checked by itself.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::order::{OrderId, Request};

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
}

/// What an event asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    /// The whole request is in the payload.
    Request(Request),
    /// The order is in Consul already, the event only rings the bell.
    Order(OrderId),
}

/// Standard input: the events, each whole or with what is wrong with it. An error is about the input as a whole.
pub fn parse(input: &str) -> Result<Vec<Result<Event, String>>, String> {
    let list: Vec<Value> = serde_json::from_str(input).map_err(|error| format!("standard input is not a JSON list of events: {error}"))?;
    let count = list.len();
    let event = |(at, value)| crate::model::json::from(value).map_err(|error| format!("event {} of {count}: {error}", at + 1));
    Ok(list.into_iter().enumerate().map(event).collect())
}

impl Event {
    pub fn asked(&self) -> Result<Asked, String> {
        if !crate::model::order::EVENTS.contains(&&*self.name) {
            return Err(format!("unknown event {:?}: expected one of {}", self.name, crate::model::order::EVENTS.join(", ")));
        }
        let encoded = self.payload.as_deref().unwrap_or("");
        if encoded.is_empty() {
            return Err("payload: empty; expected a JSON object".into());
        }
        if encoded.len() > MAX_PAYLOAD.div_ceil(3) * 4 {
            return Err(format!("payload: longer than {MAX_PAYLOAD} bytes"));
        }
        let bytes = STANDARD.decode(encoded).map_err(|error| format!("payload: not base64: {error}"))?;
        let text = std::str::from_utf8(&bytes).map_err(|error| format!("payload: not UTF-8: {error}"))?;
        asked(&self.name, text)
    }
}

/// From an event's name and its decoded payload.
pub fn asked(name: &str, payload: &str) -> Result<Asked, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Short {
        order: OrderId,
    }
    match serde_json::from_str::<Value>(payload) {
        Ok(value) if value.get("order").is_some() => {
            crate::model::json::from(value).map(|short: Short| Asked::Order(short.order)).map_err(|error| format!("payload: {error}"))
        }
        _ => Request::parse(name, payload).map(Asked::Request),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "908f76a8-0000-0000-0000-000000000001";

    fn event(payload: Value) -> Result<Asked, String> {
        let input = serde_json::json!([{"ID": ID, "Name": "destroy", "Payload": payload, "Version": 1}]).to_string();
        parse(&input)?.remove(0)?.asked()
    }

    #[test]
    fn what_is_no_list_of_events_is_refused_as_a_whole() {
        for bad in ["", "{}", "null", "[", "\"x\"", "[] []"] {
            let error = parse(bad).unwrap_err();
            assert!(error.starts_with("standard input is not a JSON list of events: "), "{error}");
        }
        assert_eq!(parse("[]"), Ok(vec![]));
    }

    #[test]
    fn a_bad_event_does_not_hide_the_next_one() {
        let input = format!(r#"[3, {{"ID": "x", "Name": "deploy"}}, {{"ID": "{ID}", "Name": "deploy", "Payload": null}}]"#);
        let events = parse(&input).unwrap();
        assert_eq!(events[0], Err("event 1 of 3: invalid type: integer `3`, expected struct Event".into()));
        assert!(events[1].as_ref().unwrap_err().starts_with("event 2 of 3: \"x\": not a UUID"));
        assert_eq!(events[2].as_ref().unwrap().name, "deploy");
    }

    #[test]
    fn payloads() {
        let encoded = |text: &[u8]| Value::from(STANDARD.encode(text));
        let error = |payload| event(payload).unwrap_err();
        assert_eq!(error(Value::Null), "payload: empty; expected a JSON object");
        assert_eq!(error("".into()), "payload: empty; expected a JSON object");
        assert_eq!(error("*".into()), "payload: not base64: Invalid symbol 42, offset 0.");
        assert_eq!(error(encoded(b"\xff")), "payload: not UTF-8: invalid utf-8 sequence of 1 bytes from index 0");
        assert_eq!(error(encoded(&[b' '; MAX_PAYLOAD + 3])), "payload: longer than 65536 bytes");
        assert!(error(encoded(b"{")).starts_with("payload: not JSON: "));
        assert_eq!(error(encoded(br#"{"order":"x"}"#)), "payload: \"x\": not a UUID (8-4-4-4-12 hexadecimal digits)");
        assert!(matches!(event(encoded(br#"{"repo":"/r","branch":"b"}"#)), Ok(Asked::Request(Request::Destroy(_)))));
        let order = OrderId::try_from(ID.to_string()).unwrap();
        assert_eq!(event(encoded(format!(r#"{{"order":"{ID}"}}"#).as_bytes())), Ok(Asked::Order(order)));
    }
}
