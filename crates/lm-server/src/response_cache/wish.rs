//! What a request says of the cache in its headers.
//!
//! Start reading at [`Wish::of`].

use axum::http::HeaderMap;
use axum::http::header::CACHE_CONTROL;
use lm_api::ApiError;

use crate::generate::said_once;

const HEADER: &str = "x-lastmile-cache";

/// What a request says of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Nothing.
    Usual,
    /// An answer that another request drew is as good.
    Sampled,
    /// It is neither answered from the cache nor kept in it.
    Bypass,
}

impl Wish {
    /// Reads `Cache-Control` and `x-lastmile-cache`. Other directives than `no-cache` and `no-store` are for caches on the
    /// way.
    ///
    /// # Errors
    /// A value of `x-lastmile-cache` that is not known.
    pub(super) fn of(headers: &HeaderMap) -> Result<Wish, ApiError> {
        let lines = headers.get_all(CACHE_CONTROL).into_iter();
        let mut directives =
            lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','));
        let is_no = |directive: &str| {
            let name = directive.trim();
            ["no-cache", "no-store"].iter().any(|no| name.eq_ignore_ascii_case(no))
        };
        let by_standard = directives.any(is_no);
        said_once(headers, HEADER)?;
        let own = headers.get(HEADER).map(|value| value.to_str().unwrap_or_default());
        match own {
            Some("bypass") => Ok(Wish::Bypass),
            Some("sampled") if by_standard => Ok(Wish::Bypass),
            Some("sampled") => Ok(Wish::Sampled),
            None if by_standard => Ok(Wish::Bypass),
            None => Ok(Wish::Usual),
            Some(other) => Err(ApiError::Invalid {
                param: HEADER.to_owned(),
                found: other.chars().take(120).collect(),
                wanted: "sampled or bypass".to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Wish;
    use axum::http::{HeaderMap, HeaderName, HeaderValue};

    #[track_caller]
    fn check(lines: &[(&'static str, &'static str)], expect: Option<Wish>) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        assert_eq!(Wish::of(&headers).ok(), expect, "{lines:?}");
    }

    #[test]
    fn headers_say_who_wants_no_cached_answer() {
        check(&[], Some(Wish::Usual));
        check(&[("cache-control", "max-age=0, No-Cache")], Some(Wish::Bypass));
        check(&[("cache-control", "max-age=0"), ("cache-control", "no-store")], Some(Wish::Bypass));
        check(&[("cache-control", "max-age=60, no-transform")], Some(Wish::Usual));
        check(&[("x-lastmile-cache", "sampled")], Some(Wish::Sampled));
        check(
            &[("x-lastmile-cache", "sampled"), ("cache-control", "no-cache")],
            Some(Wish::Bypass),
        );
        check(&[("x-lastmile-cache", "bypass")], Some(Wish::Bypass));
        check(&[("x-lastmile-cache", "on")], None);
        check(&[("x-lastmile-cache", "bypass"), ("x-lastmile-cache", "sampled")], None);
    }
}
