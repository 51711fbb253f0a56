//! OpenTelemetry's names of what a model server measures, as Prometheus writes them.
//!
//! It must never measure anything of its own: each name is one of ours again. A new version of the
//! conventions is a change of this table and of [`VERSION`] together.
//!
//! Start reading at [`TABLE`].

use lastmile::{HistogramSnapshot, StatsSnapshot};

use crate::exposition::{Exposition, Label};
use crate::metric_table::Served;

/// The version of the semantic conventions that [`TABLE`] and the attributes follow; its part on
/// generative AI has the status "development".
pub(crate) const VERSION: &str = "1.37.0";

/// One instrument of the conventions. All are histograms in seconds.
struct Instrument {
    /// OpenTelemetry's name, such as `gen_ai.server.request.duration`.
    name: &'static str,
    help: &'static str,
    value: fn(&StatsSnapshot) -> &HistogramSnapshot,
}

const TABLE: [Instrument; 3] = [
    Instrument {
        name: "gen_ai.server.request.duration",
        help: "From arrival to the end, of answers that did not fail.",
        value: |stats| &stats.e2e,
    },
    Instrument {
        name: "gen_ai.server.time_to_first_token",
        help: "From arrival to the first token.",
        value: |stats| &stats.ttft,
    },
    Instrument {
        name: "gen_ai.server.time_per_output_token",
        help: "Mean time of an answer's tokens after the first.",
        value: |stats| &stats.tpot,
    },
];

/// The engine sees a prompt in tokens, whichever route it came by.
const OPERATION: &str = "text_completion";

pub(crate) fn write(page: &mut Exposition, models: &[Served<'_>]) {
    for instrument in &TABLE {
        let name = prometheus_name(instrument.name);
        page.family(&name, "histogram", instrument.help);
        for model in models {
            let labels: [Label<'_>; 4] = [
                ("gen_ai_operation_name", OPERATION),
                ("gen_ai_provider_name", "lastmile"),
                ("gen_ai_request_model", &model.info.name),
                ("gen_ai_response_model", &model.info.name),
            ];
            page.histogram(&name, &labels, (instrument.value)(&model.stats));
        }
    }
    let help = "The version of OpenTelemetry's conventions that gen_ai_* follow.";
    let labels = [("version", VERSION)];
    page.single("lastmile_gen_ai_semconv_info", "gauge", help, &labels, 1);
}

/// Dots become underscores, and the unit is said. Source: OpenTelemetry, "Prometheus and OpenMetrics
/// Compatibility".
fn prometheus_name(name: &str) -> String {
    format!("{}_seconds", name.replace('.', "_"))
}
