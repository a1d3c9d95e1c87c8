// Starts Swagger UI. A file of its own, because our pages allow no inline script.
const root = document.getElementById("swagger-ui");
SwaggerUIBundle({ ...JSON.parse(root.dataset.options), domNode: root });
