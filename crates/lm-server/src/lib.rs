//! HTTP server of lastmile: routes, SSE, health, metrics
