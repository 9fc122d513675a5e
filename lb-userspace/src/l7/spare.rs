//! A request kept aside, so that the request can be sent once more.
//!
//! hyper takes a request whole and does not give it back once it was sent. Nearly no request is
//! ever repeated, so keeping its head must be cheap: it is written as text into a buffer that the
//! worker uses again and again. Cloning the fields instead would count up a reference for each.
//! Its body, if it has one, is kept as it passes ([`super::upload`]).

use std::{cell::RefCell, rc::Rc};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Request, Uri,
    header::{HeaderName, HeaderValue},
};

use super::upload::{Kept, Upload};
use crate::model::{RetryRefusal, RetrySpec};

/// Most buffers that a worker keeps for later, and the most bytes that one may have.
const KEPT: usize = 256;
const KEPT_BYTES: usize = 4096;

/// The buffers of a worker that no request uses.
#[derive(Debug, Default)]
pub(super) struct Buffers(RefCell<Vec<Vec<u8>>>);

/// See the module.
#[derive(Debug)]
pub(super) struct Spare {
    head: Vec<u8>,
    body: Option<Kept>,
    buffers: Rc<Buffers>,
}

impl Spare {
    /// Keeps the head of `request` and has its body kept, when its method may be repeated and the
    /// body is not known to be too large.
    ///
    /// # Errors
    /// What to say when it could have been sent again but for this.
    pub(super) fn new(
        request: &mut Request<Upload>,
        spec: &RetrySpec,
        buffers: &Rc<Buffers>,
    ) -> Result<Self, RetryRefusal> {
        if !spec.methods.contains(request.method().as_str()) {
            return Err(RetryRefusal::Unsafe);
        }
        let body = if request.body().is_none() {
            None
        } else {
            let kept = request.body_mut().keep(spec.body_limit);
            Some(kept.ok_or(RetryRefusal::Body)?)
        };
        let mut head = buffers.0.borrow_mut().pop().unwrap_or_default();
        // No part of a head has a line feed in it: hyper has refused those.
        push(&mut head, request.method().as_str().as_bytes());
        let target = request.uri().path_and_query();
        push(
            &mut head,
            target.map_or(b"/", |target| target.as_str().as_bytes()),
        );
        for (name, value) in request.headers() {
            push(&mut head, name.as_str().as_bytes());
            push(&mut head, value.as_bytes());
        }
        Ok(Self {
            head,
            body,
            buffers: Rc::clone(buffers),
        })
    }

    /// The request again; `None` when more of its body has passed than could be kept.
    pub(super) fn request(&self) -> Option<Request<Upload>> {
        let head = Bytes::copy_from_slice(&self.head);
        let mut lines = head.split(|byte| *byte == b'\n');
        let body = match &self.body {
            None => Upload::NONE,
            Some(kept) => kept.again()?,
        };
        let mut request = Request::new(body);
        *request.method_mut() = Method::from_bytes(lines.next()?).ok()?;
        *request.uri_mut() = Uri::from_maybe_shared(head.slice_ref(lines.next()?)).ok()?;
        let mut fields = HeaderMap::new();
        while let (Some(name @ [_, ..]), Some(value)) = (lines.next(), lines.next()) {
            let value = HeaderValue::from_maybe_shared(head.slice_ref(value)).ok()?;
            fields.append(HeaderName::from_bytes(name).ok()?, value);
        }
        *request.headers_mut() = fields;
        Some(request)
    }
}

fn push(head: &mut Vec<u8>, part: &[u8]) {
    head.extend_from_slice(part);
    head.push(b'\n');
}

impl Drop for Spare {
    fn drop(&mut self) {
        let mut buffers = self.buffers.0.borrow_mut();
        if buffers.len() < KEPT && self.head.capacity() <= KEPT_BYTES {
            let mut head = std::mem::take(&mut self.head);
            head.clear();
            buffers.push(head);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_comes_back_as_it_was() {
        let buffers = Rc::default();
        for _ in 0..2 {
            let mut request = Request::new(Upload::NONE);
            *request.method_mut() = Method::DELETE;
            *request.uri_mut() = Uri::from_static("/a%20b?c=d&e");
            for (name, value) in [
                ("host", "a"),
                ("x-a", "1"),
                ("x-empty", ""),
                ("x-a", "b: c"),
            ] {
                let value = HeaderValue::from_static(value);
                request.headers_mut().append(name, value);
            }
            let obscure = HeaderValue::from_bytes(b"caf\xe9\t").unwrap();
            request.headers_mut().append("x-obscure", obscure);
            let spare = Spare::new(&mut request, &RetrySpec::default(), &buffers).unwrap();
            let again = spare.request().unwrap();
            assert_eq!(again.method(), request.method());
            assert_eq!(again.uri(), request.uri());
            assert_eq!(again.headers(), request.headers());
        }
        assert_eq!(buffers.0.borrow().len(), 1);
    }

    #[test]
    fn what_may_not_be_repeated_is_not_kept() {
        let mut request = Request::new(Upload::NONE);
        for method in [Method::POST, Method::PATCH, Method::CONNECT] {
            *request.method_mut() = method.clone();
            let spare = Spare::new(&mut request, &RetrySpec::default(), &Rc::default());
            assert_eq!(spare.err(), Some(RetryRefusal::Unsafe), "{method}");
        }
    }
}
