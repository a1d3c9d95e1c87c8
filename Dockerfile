# Small, non-root, bytecode compiled. Build: docker build -t backtalk .   Run: docker run -p 8000:8000 -v backtalk:/data backtalk
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY src ./src
RUN python -m venv /opt/backtalk \
 && /opt/backtalk/bin/pip install --no-cache-dir --no-compile ".[postgres,mysql]" \
 && /opt/backtalk/bin/pip uninstall --yes pip \
 && /opt/backtalk/bin/python -m compileall -q /opt/backtalk/lib

FROM python:3.13-slim
COPY --from=build /opt/backtalk /opt/backtalk
RUN useradd --system --create-home --home-dir /data --uid 10001 backtalk
USER backtalk
WORKDIR /data
ENV PATH=/opt/backtalk/bin:$PATH BACKTALK_HOME=/data PYTHONDONTWRITEBYTECODE=1
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["backtalk"]
# Reached from outside the container, so a key is demanded: docker run --rm -v backtalk:/data backtalk keys create
CMD ["serve", "--host", "0.0.0.0"]
