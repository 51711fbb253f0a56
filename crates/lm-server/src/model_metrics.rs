//! Which models are loaded, and what of the memory is given out. The counters of a model that is not loaded are gone;
//! they begin anew when it is loaded again.
//!
//! It must never wait for a load.
//!
//! Start reading at [`write`].

use lastmile::ModelState;

use crate::app::App;
use crate::exposition::Exposition;

pub(crate) fn write(page: &mut Exposition, app: &App) {
    let all = app.models.status();
    let name = "lastmile_model_loaded";
    page.family(name, "gauge", "1 while the model answers, 0 while it would have to be loaded.");
    for model in &all {
        let loaded = u8::from(model.state == ModelState::Loaded);
        page.sample(name, &[("model_name", model.name.as_str())], loaded);
    }
    let name = "lastmile_model_loads_total";
    page.family(name, "counter", "Times that the model was loaded.");
    for model in &all {
        page.sample(name, &[("model_name", model.name.as_str())], model.n_loads);
    }
    let (ceiling, planned) = app.models.memory();
    let help = "Bytes that are planned for the models that are loaded.";
    page.single("lastmile_memory_planned_bytes", "gauge", help, &[], planned);
    if let Some(ceiling) = ceiling {
        let help = "Bytes that all models may take together.";
        page.single("lastmile_memory_ceiling_bytes", "gauge", help, &[], ceiling);
    }
}
