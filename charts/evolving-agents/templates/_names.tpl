{{/* Name of all that belongs to the release; short enough for every kind. */}}
{{- define "evolving-agents.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Never add to these: the selector of a Deployment is immutable. */}}
{{- define "evolving-agents.selectorLabels" -}}
app.kubernetes.io/name: evolving-agents-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "evolving-agents.labels" -}}
{{ include "evolving-agents.selectorLabels" . }}
app.kubernetes.io/part-of: evolving-agents
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "evolving-agents.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "evolving-agents.fullname" .) -}}
{{- end -}}

{{/* include "evolving-agents.image" (list $ "operator") */}}
{{- define "evolving-agents.image" -}}
{{- $root := index . 0 -}}
{{- $image := index $root.Values.image (index . 1) -}}
{{- $path := $image.repository -}}
{{- if $root.Values.image.registry -}}
{{- $path = printf "%s/%s" $root.Values.image.registry $image.repository -}}
{{- end -}}
{{- printf "%s:%s" $path ($image.tag | default $root.Chart.AppVersion) -}}
{{- end -}}

{{/* The Lease must lie where the operator watches: its renewals are the heartbeat of the watches. */}}
{{- define "evolving-agents.leaseNamespace" -}}
{{- if or (not .Values.watchNamespaces) (has .Release.Namespace .Values.watchNamespaces) -}}
{{- .Release.Namespace -}}
{{- else -}}
{{- first .Values.watchNamespaces -}}
{{- end -}}
{{- end -}}
