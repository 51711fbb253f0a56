//! `/openapi.json` and `/docs`: what every route takes and gives.
//!
//! The document is written by hand beside the parsers, which are no derived types either; a test holds its paths
//! against the router's, and another sends what it allows. It must never say anything of this server.
//!
//! Start reading at [`document`].

use axum::http::StatusCode;
use axum::response::Response;

use crate::{panel, reply};

/// The document as it is in the binary.
const DOCUMENT: &str = include_str!("openapi.json");

pub(crate) async fn document() -> Response {
    reply::json(StatusCode::OK, DOCUMENT.to_owned())
}

/// A page that shows the document; it asks no other host.
pub(crate) async fn docs() -> Response {
    panel::page("docs.html")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::DOCUMENT;
    use crate::routes::ROUTES;

    #[test]
    fn the_document_has_the_routes_and_nothing_else() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let described: BTreeSet<String> = paths
            .iter()
            .flat_map(|(path, methods)| {
                let methods = methods.as_object().unwrap().keys();
                methods.map(move |method| format!("{} {path}", method.to_uppercase()))
            })
            .collect();
        let routes: BTreeSet<String> = ROUTES.iter().map(|&route| route.to_owned()).collect();
        assert_eq!(described, routes);
    }

    #[test]
    fn every_schema_that_is_named_is_there() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let mut rest = DOCUMENT;
        while let Some(at) = rest.find("#/components/schemas/") {
            rest = &rest[at + "#/components/schemas/".len()..];
            let name = rest.split('"').next().unwrap();
            assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
        }
    }
}
