# Two images from one file: `workers` (judge, combine, db, view), and `length` with torch on top.

FROM python:3.11-slim AS workers
COPY . /src
RUN pip install --no-cache-dir -c /src/constraints.txt "/src[server]" \
    && useradd --create-home oyer
USER oyer
WORKDIR /home/oyer
CMD ["oyer", "--help"]

FROM workers AS length
USER root
RUN pip install --no-cache-dir -c /src/constraints.txt "/src[gpu]"
USER oyer
CMD ["oyer", "worker", "length"]
