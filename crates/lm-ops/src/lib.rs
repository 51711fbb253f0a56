//! What runs beside the engine of lastmile: recording, feedback, doctor
