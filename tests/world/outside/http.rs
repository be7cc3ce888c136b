//! As much of an HTTP/1.1 server as the handler's client needs: keep-alive, bodies with a length.

use std::io::{BufRead, BufReader, Read, Write};

use super::super::state::http::{Request, Response};

/// Answers until the client closes, or `answer` gives none: then the connection is dropped without a word.
pub fn serve<S: Read + Write>(stream: S, answer: impl Fn(&Request) -> Option<Response>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream) {
        let Some(response) = answer(&request) else {
            return;
        };
        let index = response.index.map(|i| format!("X-Consul-Index: {i}\r\n")).unwrap_or_default();
        // An answer without content has no length either.
        let length = if response.status == 204 { String::new() } else { format!("Content-Length: {}\r\n", response.body.len()) };
        let head = format!("HTTP/1.1 {} Stand-in\r\nContent-Type: application/json\r\n{index}{length}\r\n", response.status);
        if stream.get_mut().write_all(&[head.as_bytes(), &response.body].concat()).is_err() {
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
    Some(Request::new(&method, &target, &body))
}
