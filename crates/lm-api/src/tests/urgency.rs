//! Priority and time limits, from fields and from headers.

use std::time::Duration;

use lastmile::{Priority, RequestId};

use super::chat_with;
use crate::Urgency;

/// `expect` is the request's priority and limits in milliseconds, or a part of the error's sentence.
#[track_caller]
fn check(
    fields: &str,
    headers: &[(&str, &str)],
    expect: Result<(Priority, Option<u64>, Option<u64>), &str>,
) {
    let header =
        |name: &str| headers.iter().find(|(found, _)| *found == name).map(|(_, value)| *value);
    let parsed = chat_with(fields).and_then(|mut parsed| {
        parsed.urgency = parsed.urgency.with_headers(header)?;
        Ok(parsed.take_requests(|| RequestId(1)).remove(0))
    });
    match (parsed, expect) {
        (Ok(request), Ok((priority, deadline, max_queue))) => {
            assert_eq!(request.priority, priority);
            assert_eq!(request.deadline, deadline.map(Duration::from_millis));
            assert_eq!(request.max_queue, max_queue.map(Duration::from_millis));
        }
        (Err(error), Err(part)) => {
            assert_eq!(error.status(), 400);
            assert!(error.to_string().contains(part), "{error}");
        }
        (found, _) => panic!("{found:?}"),
    }
}

#[test]
fn fields_and_headers_say_the_same_things() {
    use Priority::{Background, Batch, Interactive};
    const DEADLINE: &str = Urgency::DEADLINE_HEADER;
    const MAX_QUEUE: &str = Urgency::MAX_QUEUE_HEADER;
    const PRIORITY: &str = Urgency::PRIORITY_HEADER;
    check(r#""n":1"#, &[], Ok((Interactive, None, None)));
    let fields = r#""priority":"batch","deadline_ms":2000,"max_queue_ms":30"#;
    check(fields, &[], Ok((Batch, Some(2000), Some(30))));
    let headers = [(DEADLINE, "2000"), (MAX_QUEUE, " 30"), (PRIORITY, "background")];
    check(r#""n":1"#, &headers, Ok((Background, Some(2000), Some(30))));
    check(fields, &[(DEADLINE, "2000"), (PRIORITY, "batch")], Ok((Batch, Some(2000), Some(30))));
    check(
        fields,
        &[(DEADLINE, "2001")],
        Err("deadline_ms is 2000, but x-lastmile-deadline-ms is 2001"),
    );
    check(
        fields,
        &[(PRIORITY, "interactive")],
        Err("priority is batch, but x-lastmile-priority is"),
    );
    check(r#""n":1"#, &[(MAX_QUEUE, "0")], Err("x-lastmile-max-queue-ms is \"0\", but must be"));
    check(r#""n":1"#, &[(DEADLINE, "soon")], Err("an integer from 1 to 86400000"));
    check(r#""n":1"#, &[(PRIORITY, "")], Err("\"interactive\", \"batch\" or \"background\""));
    check(r#""deadline_ms":0"#, &[], Err("deadline_ms is 0, but must be an integer from 1"));
    check(r#""max_queue_ms":1.5"#, &[], Err("max_queue_ms is 1.5"));
    check(r#""priority":1"#, &[], Err("priority is 1, but must be"));
}
