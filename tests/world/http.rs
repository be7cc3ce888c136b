//! As much of an HTTP/1.1 server as the handler's client needs: keep-alive, bodies with a length.

use std::io::{BufRead, BufReader, Read, Write};

pub struct Request {
    pub method: String,
    pub path: String,
    pub query: Vec<(String, String)>,
    pub body: Vec<u8>,
}

pub struct Response {
    pub status: u16,
    pub index: Option<u64>,
    pub body: String,
}

impl Response {
    pub fn new(status: u16, body: impl Into<String>) -> Self {
        Response { status, index: None, body: body.into() }
    }
}

impl Request {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Answers until the client closes, or `answer` gives none: then the connection is dropped without a word.
pub fn serve<S: Read + Write>(stream: S, answer: impl Fn(&Request) -> Option<Response>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream) {
        let Some(response) = answer(&request) else {
            return;
        };
        let index = response.index.map(|i| format!("X-Consul-Index: {i}\r\n")).unwrap_or_default();
        let head = format!(
            "HTTP/1.1 {} Stand-in\r\nContent-Type: application/json\r\n{index}Content-Length: {}\r\n\r\n",
            response.status,
            response.body.len()
        );
        if stream.get_mut().write_all((head + &response.body).as_bytes()).is_err() {
            return;
        }
    }
}

fn read(stream: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut length = 0;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).ok().filter(|n| *n > 0)?;
        match header.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse().ok()?,
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let query = query.split('&').filter(|p| !p.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name.to_owned(), decode(value))
    });
    Some(Request { method, path: decode(path), query: query.collect(), body })
}

fn decode(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        let hex = |b: Option<u8>| b.and_then(|b| (b as char).to_digit(16)).unwrap_or_default() as u8;
        out.push(if b == b'%' { hex(bytes.next()) * 16 + hex(bytes.next()) } else { b });
    }
    String::from_utf8_lossy(&out).into_owned()
}
